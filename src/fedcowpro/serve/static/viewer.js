// The image on the screen: slices by `Plane`; three planes and 3-D by NiiVue, which gets the volume when it is asked for
// one of them. Painting itself is in `painter.js`.
import { channels } from "./colours.js";
import { parse, Plane } from "./plane.js";

const NIIVUE = "/static/vendor/niivue.umd.js";
const GREY_PER_PIXEL = 1 / 300; // of the range of values, for the right mouse button

export class Viewer extends EventTarget {
  #nv = null;
  #loaded = null; // the image that NiiVue has
  #view = "slice";
  #frame = null; // that was asked for and has not come yet
  #slice = 0;
  #bytes = null;
  #image = null;
  #labels = null;
  #values = [];
  size = [0, 0, 0];

  start(plane, canvas) {
    this.canvas = canvas;
    this.plane = new Plane(plane);
    new ResizeObserver(() => this.#redraw()).observe(plane);
  }

  // Show an image (bytes of a NIfTI file in RAS order) with labels, one byte per voxel, which stay shared.
  async show(image, labels) {
    this.#bytes = image;
    this.#image = parse(image);
    this.size = this.#image.size;
    this.plane.set(this.#image);
    this.setLabels(labels);
    await this.setView(this.#view);
  }

  clear() {
    [this.#bytes, this.#image, this.#labels] = [null, null, null];
    this.size = [0, 0, 0];
    this.plane.set(null);
    this.setView("slice");
  }

  setLabels(labels) {
    this.#labels = labels;
    if (this.#in3D) this.#drawIn3D();
    this.#redraw();
  }

  setColours(values) {
    this.#values = values;
    this.plane.setColours(values);
    this.#colour3D();
    this.#redraw();
  }

  hide(values) {
    this.plane.hide(values);
    this.#redraw();
  }

  refreshSlice() {
    this.#redraw();
  }

  // Once per frame of the screen, however many changes there are.
  #redraw() {
    this.#frame ??= requestAnimationFrame(() => {
      this.#frame = null;
      if (this.#view === "slice") this.plane.draw(this.#slice, this.#labels);
    });
  }

  get #in3D() {
    return this.#view === "planes" || this.#view === "render";
  }

  get view() {
    return this.#view;
  }

  async setView(view) {
    this.#view = view;
    this.plane.canvas.hidden = view !== "slice";
    this.canvas.hidden = !this.#in3D;
    if (this.#in3D && this.#image) await this.#show3D();
    this.#redraw();
  }

  async #show3D() {
    if (!this.#nv) await this.#startNiivue();
    const nv = this.#nv;
    if (this.#loaded !== this.#bytes) {
      while (nv.volumes.length) nv.removeVolumeByIndex(0);
      await nv.loadFromArrayBuffer(this.#bytes.slice(0), "image.nii");
      this.#loaded = this.#bytes;
      nv.createEmptyDrawing();
      this.#colour3D();
    }
    const { SLICE_TYPE } = globalThis.niivue;
    nv.opts.crosshairWidth = this.#view === "planes" ? 1 : 0;
    nv.setOpacity(0, this.#view === "render" ? 0.25 : 1);
    nv.setDrawOpacity(this.plane.opacity);
    this.#drawIn3D();
    this.#window3D();
    nv.scene.crosshairPos[2] = (this.#slice + 0.5) / this.size[2];
    nv.setSliceType(this.#view === "planes" ? SLICE_TYPE.MULTIPLANAR : SLICE_TYPE.RENDER);
  }

  async #startNiivue() {
    await new Promise((resolve, reject) => {
      const script = Object.assign(document.createElement("script"), { src: NIIVUE, onload: resolve, onerror: reject });
      document.head.append(script);
    });
    const { Niivue, SHOW_RENDER } = globalThis.niivue;
    this.#nv = new Niivue({
      backColor: [0, 0, 0, 1],
      clipPlaneHotKey: "",
      crosshairColor: [0.34, 0.71, 0.91, 1],
      dragAndDropEnabled: false,
      isRadiologicalConvention: true,
      loadingText: "",
      logLevel: "error",
      multiplanarShowRender: SHOW_RENDER.NEVER,
      show3Dcrosshair: false,
      viewModeHotKey: "",
    });
    this.#nv.onLocationChange = () => {
      this.#slice = this.#clamp(Math.round(this.#nv.scene.crosshairPos[2] * this.size[2] - 0.5));
      this.dispatchEvent(new Event("moved"));
    };
    await this.#nv.attachToCanvas(this.canvas);
    this.canvas.tabIndex = -1; // hidden from screen readers, so it must not take the focus
  }

  #drawIn3D() {
    if (!this.#nv || this.#loaded !== this.#bytes || !this.#labels) return;
    this.#nv.drawBitmap = this.#labels;
    this.#nv.refreshDrawing(true);
  }

  #colour3D() {
    if (!this.#nv) return;
    const parts = this.#values.map(channels);
    this.#nv.setDrawColormap({
      R: [0, ...parts.map((one) => one[0])],
      G: [0, ...parts.map((one) => one[1])],
      B: [0, ...parts.map((one) => one[2])],
      A: [0, ...parts.map(() => 255)],
      I: [0, ...this.#values],
      labels: ["", ...this.#values.map(String)],
    });
  }

  #window3D() {
    const image = this.#nv?.volumes[0];
    if (!image || !this.#in3D) return;
    [image.cal_min, image.cal_max] = this.plane.window;
    this.#nv.updateGLVolume();
  }

  setOpacity(opacity) {
    this.plane.opacity = opacity;
    this.#nv?.setDrawOpacity(opacity);
    this.#redraw();
  }

  setOutline(outline) {
    this.plane.outline = outline;
    this.#redraw();
  }

  // Lowest and highest value of the image, and the window now shown.
  get window() {
    const [low, high] = this.plane.window;
    return this.#image && { least: this.#image.least, most: this.#image.most, low, high };
  }

  setWindow(low, high) {
    if (!this.#image) return;
    this.plane.window = [low, Math.max(high, low + 1e-3)];
    this.#window3D();
    this.#redraw();
    this.dispatchEvent(new Event("window"));
  }

  // The window that the server proposes.
  resetWindow() {
    if (this.#image) this.setWindow(...this.#image.window);
  }

  // Brighter or darker, more or less contrast, by a way of the mouse.
  shiftWindow(right, down) {
    const { least, most, low, high } = this.window;
    const unit = (most - least) * GREY_PER_PIXEL;
    const half = Math.max(unit / 2, (high - low) / 2 + (right * unit) / 2);
    const level = (low + high) / 2 + (down * unit) / 2;
    this.setWindow(level - half, level + half);
  }

  pan(right, down) {
    this.plane.pan = [this.plane.pan[0] + right, this.plane.pan[1] + down];
    this.#redraw();
    this.dispatchEvent(new Event("moved"));
  }

  zoom(factor, clientX, clientY) {
    const box = this.plane.canvas.getBoundingClientRect();
    const place = clientX === undefined ? [box.width / 2, box.height / 2] : [clientX - box.left, clientY - box.top];
    this.plane.zoomAt(factor, place);
    this.#redraw();
    this.dispatchEvent(new Event("moved"));
  }

  fit() {
    this.plane.fit();
    this.#redraw();
    this.dispatchEvent(new Event("moved"));
  }

  get slice() {
    return this.#slice;
  }

  setSlice(z) {
    this.#slice = this.#clamp(z);
    if (this.#in3D && this.#nv) {
      this.#nv.scene.crosshairPos[2] = (this.#slice + 0.5) / this.size[2];
      this.#nv.drawScene();
    }
    this.#redraw();
    this.dispatchEvent(new Event("moved"));
  }

  #clamp(z) {
    return Math.min(Math.max(0, this.size[2] - 1), Math.max(0, z));
  }

  get millimetres() {
    return this.#image?.spacing ?? [1, 1, 1];
  }

  valueAt(z, index) {
    return this.plane.valueAt(z, index);
  }

  // From a place on the page to (x, y) in pixels of the slice, with fractions; null where there is no image.
  toPixel(clientX, clientY) {
    if (!this.#image) return null;
    const box = this.plane.canvas.getBoundingClientRect();
    return this.plane.toPixel([clientX - box.left, clientY - box.top]);
  }

  // The inverse, relative to the canvas in CSS pixels; null where there is no image.
  toScreen(place) {
    return this.#image && this.plane.toScreen(place);
  }
}
