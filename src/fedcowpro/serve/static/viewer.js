// The image on the screen: NiiVue, with the labels as its drawing. Painting itself is in `painter.js`.
import { channels } from "./colours.js";

const { Niivue, SLICE_TYPE, SHOW_RENDER } = globalThis.niivue;
const VIEWS = { slice: SLICE_TYPE.AXIAL, planes: SLICE_TYPE.MULTIPLANAR, render: SLICE_TYPE.RENDER };
const DRAWING_UNIT = 7; // NiiVue's texture unit of the drawing

export class Viewer extends EventTarget {
  #nv;
  #view = "slice";
  #frame = null; // that was asked for and has not come yet
  size = [0, 0, 0];

  async start(canvas) {
    this.canvas = canvas;
    this.#nv = new Niivue({
      backColor: [0, 0, 0, 1],
      crosshairColor: [0.34, 0.71, 0.91, 1],
      crosshairWidth: 0,
      dragAndDropEnabled: false,
      isRadiologicalConvention: true,
      logLevel: "error",
      loadingText: "",
      multiplanarShowRender: SHOW_RENDER.NEVER,
      show3Dcrosshair: false,
    });
    this.#nv.onLocationChange = () => this.dispatchEvent(new Event("moved"));
    await this.#nv.attachToCanvas(canvas);
  }

  // Show an image (bytes of a NIfTI file in RAS order) with labels, one byte per voxel, which stay shared.
  async show(image, labels) {
    const nv = this.#nv;
    while (nv.volumes.length) nv.removeVolumeByIndex(0);
    await nv.loadFromArrayBuffer(image, "image.nii");
    this.size = Array.from(nv.volumes[0].dimsRAS.slice(1, 4));
    nv.createEmptyDrawing();
    this.setLabels(labels);
    this.setView(this.#view);
  }

  clear() {
    const nv = this.#nv;
    nv.closeDrawing();
    while (nv.volumes.length) nv.removeVolumeByIndex(0);
    this.size = [0, 0, 0];
    nv.drawScene();
  }

  setLabels(labels) {
    this.#nv.drawBitmap = labels;
    this.#nv.refreshDrawing(true);
  }

  setColours(values) {
    const parts = values.map(channels);
    this.#nv.setDrawColormap({
      R: [0, ...parts.map((one) => one[0])],
      G: [0, ...parts.map((one) => one[1])],
      B: [0, ...parts.map((one) => one[2])],
      A: [0, ...parts.map(() => 255)],
      I: [0, ...values],
      labels: ["", ...values.map(String)],
    });
  }

  // Only one slice of the labels has changed: much less to send to the graphics card than all.
  refreshSlice(z) {
    const { gl, drawTexture, drawBitmap } = this.#nv;
    const [width, height] = this.size;
    gl.activeTexture(gl.TEXTURE0 + DRAWING_UNIT);
    gl.bindTexture(gl.TEXTURE_3D, drawTexture);
    gl.pixelStorei(gl.UNPACK_ALIGNMENT, 1);
    const pixels = drawBitmap.subarray(z * width * height, (z + 1) * width * height);
    gl.texSubImage3D(gl.TEXTURE_3D, 0, 0, 0, z, width, height, 1, gl.RED, gl.UNSIGNED_BYTE, pixels);
    this.#redraw();
  }

  // Once per frame of the screen, however many changes there are: a slow graphics card keeps up with a quick pen.
  #redraw() {
    this.#frame ??= requestAnimationFrame(() => {
      this.#frame = null;
      this.#nv.drawScene();
    });
  }

  get view() {
    return this.#view;
  }

  setView(view) {
    const nv = this.#nv;
    this.#view = view;
    nv.opts.crosshairWidth = view === "planes" ? 1 : 0;
    if (nv.volumes.length) nv.setOpacity(0, view === "render" ? 0.25 : 1);
    nv.setSliceType(VIEWS[view]);
  }

  setOpacity(opacity) {
    this.#nv.setDrawOpacity(opacity);
  }

  // Lowest and highest value of the image, and the window now shown.
  get window() {
    const image = this.#nv.volumes[0];
    return image && { least: image.global_min, most: image.global_max, low: image.cal_min, high: image.cal_max };
  }

  setWindow(low, high) {
    const image = this.#nv.volumes[0];
    if (!image) return;
    [image.cal_min, image.cal_max] = [low, Math.max(high, low + 1e-3)];
    this.#nv.updateGLVolume();
  }

  get slice() {
    return this.size[2] ? Math.min(this.size[2] - 1, Math.max(0, Math.round(this.#nv.scene.crosshairPos[2] * this.size[2] - 0.5))) : 0;
  }

  setSlice(z) {
    this.#nv.scene.crosshairPos[2] = (z + 0.5) / this.size[2];
    this.#redraw();
    this.dispatchEvent(new Event("moved"));
  }

  // From a place on the page to (x, y) in pixels of the slice, with fractions; null outside the tile.
  toPixel(clientX, clientY) {
    const box = this.canvas.getBoundingClientRect();
    const scale = this.#nv.uiData.dpr ?? 1;
    const [x, y] = [(clientX - box.left) * scale, (clientY - box.top) * scale];
    const tile = this.#nv.tileIndex(x, y);
    if (tile < 0) return null;
    const place = this.#nv.screenXY2TextureFrac(x, y, tile, false);
    return [place[0] * this.size[0] - 0.5, place[1] * this.size[1] - 0.5];
  }

  // The inverse, relative to the canvas in CSS pixels; null where it is not on the screen.
  toScreen([x, y]) {
    const place = [(x + 0.5) / this.size[0], (y + 0.5) / this.size[1], this.#nv.scene.crosshairPos[2]];
    const found = this.#nv.frac2canvasPos(place);
    const scale = this.#nv.uiData.dpr ?? 1;
    return found && [found[0] / scale, found[1] / scale];
  }
}
