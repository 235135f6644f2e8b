# Scores scans without a network, as a user who is not root. From the root of a clone:
#
#   docker build -f containers/predict.Dockerfile -t madad_jax .
#   docker build -f containers/predict.Dockerfile --target=cuda -t madad_jax:cuda .
#   docker build -f containers/predict.Dockerfile --target=bids -t madad_jax:bids .
#
# README.md beside this file says how to run them.
FROM debian:trixie-slim AS system
COPY containers/install.sh /src/containers/install.sh
RUN ["/src/containers/install.sh", "system"]
COPY pyproject.toml requirements.txt README.md LICENSE /src/
COPY constraints /src/constraints
COPY configs /src/configs
COPY madad_jax /src/madad_jax
LABEL org.opencontainers.image.title="madad_jax" \
      org.opencontainers.image.description="Brain-MRI anomaly detection; research use, not a medical device" \
      org.opencontainers.image.licenses="Apache-2.0 AND CC-BY-SA-3.0"
ENV PATH=/opt/madad_jax/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    XDG_CACHE_HOME=/cache
WORKDIR /tmp

# JAX brings CUDA itself; the host needs the driver and NVIDIA's container toolkit.
FROM system AS cuda
RUN ["/src/containers/install.sh", "program", "dicom,cuda13"]
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 1000:1000
ENTRYPOINT ["madad-jax"]
CMD ["--help"]

FROM system AS program
RUN ["/src/containers/install.sh", "program", "dicom"]
USER 1000:1000

# Takes INPUT OUTPUT participant|group, as every BIDS app does.
FROM program AS bids
ENTRYPOINT ["madad-jax", "bids"]
CMD ["--help"]

# The last one is what `docker build` makes without --target.
FROM program AS cpu
ENTRYPOINT ["madad-jax"]
CMD ["--help"]
