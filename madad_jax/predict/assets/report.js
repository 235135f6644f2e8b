"use strict";
// The viewer and what drives it. All text and numbers come from the JSON in #data.
(async function () {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const pictures = () => {
    $("no-viewer").hidden = false;
    $("viewer").hidden = true;
    $("pictures").open = true;
  };
  const percent = (x) => (100 * x).toPrecision(2) + " %";

  // What a threshold means: the calibrated one nearest below, never a guess between two.
  const meaning = (threshold) => {
    let row = null;
    for (const entry of data.healthy) if (entry[0] <= threshold + 5e-4) row = entry; // the slider's step
    if (!row) return "Not calibrated: what healthy scans show at this threshold is not known.";
    const places = row[2] === null ? "" : `, ${row[2].toFixed(2)} candidates each`;
    return `Healthy scans above this threshold: ${percent(row[1])} of brain voxels${places}.`;
  };

  const slider = $("threshold");
  slider.max = data.slider_max;
  slider.value = data.threshold;
  let nv = null;
  const showThreshold = () => {
    const value = Number(slider.value);
    $("threshold-value").textContent = value.toFixed(3);
    $("meaning").textContent = meaning(value);
    if (!nv || nv.volumes.length < 2) return;
    nv.volumes[1].cal_min = Math.max(value, 1e-4);
    nv.volumes[1].cal_max = data.slider_max;
    nv.updateGLVolume();
  };
  const showOpacity = () => {
    const value = Number($("opacity").value);
    $("opacity-value").textContent = Math.round(100 * value) + " %";
    if (nv && nv.volumes.length > 1) nv.setOpacity(1, value);
  };
  const showOutline = () => {
    if (!nv) return;
    nv.overlayOutlineWidth = $("outline").checked ? 0.4 : 0;
    nv.updateGLVolume();
  };
  slider.addEventListener("input", showThreshold);
  $("opacity").addEventListener("input", showOpacity);
  $("outline").addEventListener("change", showOutline);
  $("mirror").addEventListener("change", () => {
    if (nv) nv.setRadiologicalConvention($("mirror").checked);
    $("keys").querySelector(".side").textContent = $("mirror").checked ? "right" : "left";
  });
  $("reset").addEventListener("click", () => {
    slider.value = data.threshold;
    showThreshold();
  });
  showThreshold();
  showOpacity();

  const buttons = [...document.querySelectorAll("ol.places button")];
  const jump = (button) => {
    for (const other of buttons) other.removeAttribute("aria-current");
    button.setAttribute("aria-current", "true");
    if (!nv) return;
    nv.scene.crosshairPos = nv.vox2frac(JSON.parse(button.dataset.voxel));
    nv.createOnLocationChange();
    nv.drawScene();
  };
  buttons.forEach((button, i) => {
    button.addEventListener("click", () => jump(button));
    button.addEventListener("keydown", (event) => {
      const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
      if (!step || !buttons[i + step]) return;
      event.preventDefault();
      buttons[i + step].focus();
      jump(buttons[i + step]);
    });
  });

  try {
    const viewer = new niivue.Niivue({
      backColor: [0, 0, 0, 1],
      crosshairColor: [1, 1, 1, 0.8],
      crosshairWidth: 0.5,
      crosshairGap: 8, // what the lines meet at stays visible
      show3Dcrosshair: false,
      dragAndDropEnabled: false,
      isColorbar: false,
      loadingText: "",
      multiplanarShowRender: niivue.SHOW_RENDER.NEVER,
    });
    if (!document.createElement("canvas").getContext("webgl2")) throw new Error("no WebGL 2");
    await viewer.attachToCanvas($("viewer"));
    const load = (base64, options) => niivue.NVImage.loadFromBase64({ base64, ...options });
    viewer.addVolume(await load(data.scan, { name: "scan.nii.gz", colormap: "gray" }));
    viewer.addVolume(
      await load(data.map, {
        name: "map.nii.gz",
        colormap: "inferno",
        cal_min: Math.max(data.threshold, 1e-4),
        cal_max: data.slider_max,
        opacity: Number($("opacity").value),
      })
    );
    viewer.setSliceType(viewer.sliceTypeMultiplanar);
    nv = viewer;
  } catch (error) {
    console.error(error);
    pictures();
    document.body.dataset.ready = "pictures";
    return;
  }
  nv.onLocationChange = (where) => {
    const value = where.values[1] ? where.values[1].value : 0;
    const mm = [...where.mm].slice(0, 3).map((v) => v.toFixed(0)).join(", ");
    const above = value > Number(slider.value) ? "above" : "below";
    $("place").textContent =
      `x, y, z = ${mm} mm (scanner); map ${value.toFixed(3)}, ${above} the threshold`;
  };
  $("viewer").addEventListener(
    "keydown",
    (event) => {
      const moves = {
        ArrowLeft: [-1, 0, 0],
        ArrowRight: [1, 0, 0],
        ArrowUp: [0, 1, 0],
        ArrowDown: [0, -1, 0],
        PageUp: [0, 0, 1],
        PageDown: [0, 0, -1],
      };
      const move = moves[event.key];
      if (!move) return;
      event.preventDefault();
      event.stopImmediatePropagation();
      nv.moveCrosshairInVox(...move);
    },
    true
  );
  showThreshold();
  showOpacity();
  showOutline();
  if (buttons.length) jump(buttons[0]);
  else nv.createOnLocationChange();
  window.report = nv; // for whoever wants to look further in the browser's console
  document.body.dataset.ready = "viewer";
})();
