#!/usr/bin/env bash
# tensorflow-datasets 4.9.10 imports importlib_resources when it prepares a builder whose class lies
# in a package, but asks for it on Python below 3.9 only. A builder in a module of its own works, so
# that `python my_dataset.py` does not show it; the same file inside a package raises
# ModuleNotFoundError, unless another package brings importlib_resources (nibabel does below 3.12).
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3.13}" -m venv "$folder/venv"
python="$folder/venv/bin/python"
install() { "$python" -m pip install --quiet --disable-pip-version-check "$@" 2>"$folder/errors" || {
  cat "$folder/errors" >&2
  exit 1
}; }
# All that tensorflow-datasets and array-record, which writes its files without TensorFlow, ask for.
install tensorflow-datasets==4.9.10 array_record==0.8.6 absl-py==2.5.1 attrs==26.1.0 \
  certifi==2026.10.19.post1 charset-normalizer==3.5.3 dm-tree==0.1.10 docstring_parser==0.18.0 \
  einops==0.8.2 etils==1.15.0 fsspec==2026.9.0 googleapis-common-protos==1.76.0 idna==3.20 \
  immutabledict==4.3.1 numpy==2.5.5 promise==2.3 protobuf==7.36.2 psutil==7.2.2 pyarrow==26.0.1 \
  requests==2.34.2 simple-parsing==0.1.9 six==1.17.0 tensorflow-metadata==1.21.0 termcolor==3.3.0 \
  toml==0.10.2 tqdm==4.70.1 typing_extensions==4.16.0 urllib3==2.8.0 wrapt==2.5.2 zipp==4.1.2

mkdir -p "$folder/code/inside"
touch "$folder/code/inside/__init__.py"
cat > "$folder/code/inside/builder.py" <<'EOF'
import numpy as np
import tensorflow_datasets as tfds


class Tiny(tfds.core.GeneratorBasedBuilder):
    """Three numbers."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict({"x": np.int64})
        )

    def _split_generators(self, dl_manager):
        return {"train": ((i, {"x": i}) for i in range(3))}

    def _generate_examples(self):
        raise NotImplementedError
EOF
cp "$folder/code/inside/builder.py" "$folder/code/alone.py"

cat > "$folder/code/make.py" <<'EOF'
import importlib
import sys

builder = importlib.import_module(sys.argv[1]).Tiny
try:
    builder(data_dir=sys.argv[2], file_format="array_record").download_and_prepare()
except ModuleNotFoundError as error:
    print(f"{type(error).__name__}: {error}")
else:
    print("works")
EOF

cd "$folder/code"
make() { "$python" make.py "$1" "$folder/$1" 2>"$folder/errors" | tail -n 1 || { cat "$folder/errors" >&2; exit 1; }; }
asked="$("$python" -c 'import importlib.metadata as m
print(*[r for r in m.requires("tensorflow-datasets") if r.startswith("importlib_resources")])')"
# What was seen (Python 3.13.0): works, ModuleNotFoundError, works.
package="$(make inside.builder)" alone="$(make alone)"
install importlib_resources==7.1.0
mended="$(make inside.builder)"

"$python" --version
echo "tensorflow-datasets 4.9.10 asks for: $asked"
echo "builder in a module of its own:      $alone"
echo "the same builder in a package:       $package"
echo "... with importlib_resources 7.1.0:  $mended"
[[ "$asked" == *'python_version < "3.9"'* && "$alone" == works && "$mended" == works &&
  "$package" == "ModuleNotFoundError: No module named 'importlib_resources'" ]] || {
  echo "this has changed: see the line importlib_resources in requirements.txt" >&2
  exit 1
}
