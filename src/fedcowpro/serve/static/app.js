// The page as a whole: what is open, what is painted, and what the server makes of it.
import * as api from "./api.js";
import { colour } from "./colours.js";
import { listen } from "./keys.js";
import { Labels } from "./labels.js";
import { Opening } from "./opening.js";
import { $, attempt, hideError, make, press, say, showError, showNotes } from "./page.js";
import { Painter } from "./painter.js";
import { Strip } from "./strip.js";
import { Viewer } from "./viewer.js";

const SEND_AFTER = 400; // ms after a stroke, so that quick strokes go together

const viewer = new Viewer();
const painter = new Painter(viewer, $("surface"), $("ring"));
const labels = new Labels();
const strip = new Strip($("strip"), (z) => goTo(z));
const opening = new Opening(add, busy);
// Open volumes by id: { info, bitmap, painted, undo, slice, dirty }; the bitmap comes when the volume is first shown.
const volumes = new Map();
let current = null;
let job = null;
let sending = Promise.resolve();
let timer = 0;

// ---------------------------------------------------------------- open volumes

function keep(info) {
  const known = volumes.get(info.id) ?? { bitmap: null, undo: [], slice: Math.floor(info.size[2] / 2), dirty: new Set() };
  volumes.set(info.id, Object.assign(known, { info, painted: new Set(info.painted) }));
  return known;
}

async function add(info) {
  keep(info);
  await show(info.id);
  $("surface").focus();
}

async function show(id) {
  await flush();
  if (current) current.slice = viewer.slice;
  const chosen = volumes.get(id);
  const [image, bitmap] = await Promise.all([api.image(id), chosen.bitmap ?? api.labels(id)]);
  Object.assign(chosen, { bitmap });
  current = chosen;
  $("welcome").hidden = true;
  await viewer.show(image, bitmap);
  viewer.setColours(labels.values());
  painter.setTarget(chosen);
  viewer.setSlice(chosen.slice);
  const { least, most, low, high } = viewer.window;
  const place = (value) => Math.round((1000 * (value - least)) / (most - least || 1));
  [$("low").value, $("high").value] = [place(low), place(high)];
  render();
}

async function close(id) {
  await attempt(async () => {
    await flush();
    await api.close(id);
    const closed = volumes.get(id);
    volumes.delete(id);
    say(`${closed.info.name} is closed.`);
    if (closed !== current) return render();
    current = null;
    const next = volumes.keys().next();
    if (!next.done) return show(next.value);
    painter.setTarget(null);
    viewer.clear();
    $("welcome").hidden = false;
    return render();
  });
}

function busy(text) {
  $("drop").setAttribute("aria-busy", String(Boolean(text)));
  $("drop").querySelector("p").textContent =
    text ? `${text} …` : "Drop a NIfTI file or a DICOM series (files, folder or zip) anywhere on this page, or";
}

// ---------------------------------------------------------------- painting, and telling the server

painter.addEventListener("painted", ({ detail: { target, z, painted } }) => {
  if (painted) {
    target.painted.add(z);
    target.dirty.add(z);
    clearTimeout(timer);
    timer = setTimeout(() => attempt(flush), SEND_AFTER);
  } else {
    target.painted.delete(z);
    target.dirty.delete(z);
    attempt(() => queue(() => api.forgetSlices(target.info.id, [z])));
  }
  render();
});

// Requests about slices go one after another, in the order in which they were made.
function queue(request) {
  const done = sending.then(request);
  sending = done.catch(() => {});
  return done;
}

async function flush() {
  clearTimeout(timer);
  for (const volume of volumes.values()) {
    const numbers = [...volume.dirty];
    if (!numbers.length) continue;
    volume.dirty.clear();
    const [width, height] = volume.info.size;
    const body = new Uint8Array(numbers.length * width * height);
    numbers.forEach((z, i) => body.set(volume.bitmap.subarray(z * width * height, (z + 1) * width * height), i * width * height));
    queue(() => api.putSlices(volume.info.id, numbers, body)).catch((error) => {
      numbers.forEach((z) => volume.dirty.add(z));
      showError(error);
    });
  }
  await sending;
}

// Take the slice as it is, or make it unknown again.
async function toggleExample() {
  if (!current) return;
  const [target, z] = [current, viewer.slice];
  await attempt(async () => {
    if (!target.painted.has(z)) {
      target.painted.add(z);
      target.dirty.add(z);
      await flush();
    } else {
      target.painted.delete(z);
      target.dirty.delete(z);
      await queue(() => api.forgetSlices(target.info.id, [z]));
      await reload(target);
    }
    say(target.painted.has(z) ? `Slice ${z + 1} is an example.` : `Slice ${z + 1} is no example any more.`);
  });
  render();
}

// Labels as the server has them.
async function reload(volume) {
  const fresh = await api.labels(volume.info.id);
  volume.undo.length = 0;
  if (volume.bitmap) volume.bitmap.set(fresh);
  else volume.bitmap = fresh;
  if (volume === current) viewer.setLabels(volume.bitmap);
}

// ---------------------------------------------------------------- segmenting

const segment = () => work("segment", "Segmenting.");
const refine = () => work("refine", "Refining; this takes minutes.");

async function work(what, said) {
  if (job || $(what).disabled) return;
  await attempt(async () => {
    await flush();
    await follow(await api[what](), said);
  });
}

// The masks of before refining, or again those of after.
async function exchange() {
  const volume = current;
  await attempt(async () => {
    await flush();
    keep(await api.exchange(volume.info.id));
    volume.earlier = !volume.earlier;
    await reload(volume);
    render();
  });
}

async function follow(begun, said) {
  job = begun;
  say(said);
  render();
  try {
    const last = await api.follow(begun.id, (now) => {
      job = now;
      $("progress").max = now.total || 1;
      if (now.total) $("progress").value = now.done;
      else $("progress").removeAttribute("value");
      $("job-text").textContent = now.total > 1 ? `${now.stage}: ${now.done} of ${now.total}` : now.stage;
    });
    if (last.state === "failed") showError(last.error);
    say({ done: "The volumes are segmented.", cancelled: "Cancelled.", failed: "It failed." }[last.state]);
    await flush();
    for (const volume of volumes.values()) {
      keep(await api.volume(volume.info.id));
      if (last.state === "done") volume.earlier = false;
      if (volume !== current) volume.bitmap = null;
    }
    if (current) await reload(current);
    if (last.state === "done") showNotes([...volumes.values()].flatMap((volume) => volume.info.notes));
  } finally {
    job = null;
    render();
  }
}

// ---------------------------------------------------------------- slices

function goTo(z) {
  if (!current) return;
  viewer.setSlice(Math.min(viewer.size[2] - 1, Math.max(0, z)));
}

function confidence(volume) {
  const rows = volume.info.slices;
  return rows[labels.active] ?? null;
}

// The slice most worth a look: unclear, and with much of the organ on it.
function mostDoubtful() {
  if (!current?.bitmap) return null;
  const [width, height] = current.info.size;
  const doubts = (confidence(current) ?? []).map((value, z) => {
    if (value === null || current.painted.has(z)) return -1;
    const pixels = current.bitmap.subarray(z * width * height, (z + 1) * width * height);
    return (1 - value) * pixels.reduce((sum, label) => sum + (label === labels.active), 0);
  });
  const most = Math.max(-1, ...doubts);
  return most > 0 ? doubts.indexOf(most) : null;
}

function sliceState() {
  if (!current) return "No volume is open.";
  const z = viewer.slice;
  const known = confidence(current)?.[z];
  const name = labels.name(labels.active);
  let state = "unknown: not painted, not segmented";
  if (current.painted.has(z)) state = "an example";
  else if (current.info.segmented && known !== null && known !== undefined) state = `segmented, ${name} with confidence ${known.toFixed(2)}`;
  else if (current.info.segmented) state = `segmented, no ${name} found`;
  return `Slice ${z + 1} of ${viewer.size[2]}: ${state}`;
}

// ---------------------------------------------------------------- drawing the page's state

function render() {
  renderVolumes();
  renderSlice();
  renderResults();
  const painted = [...volumes.values()].some((volume) => volume.painted.size);
  const segmented = Boolean(current?.info.segmented);
  $("segment").disabled = Boolean(job) || !painted;
  $("refine").disabled = $("segment").disabled;
  $("exchange").hidden = !current?.info.refined;
  $("exchange").disabled = Boolean(job);
  $("exchange").textContent = current?.earlier ? "Show the refined masks" : "Show the masks of before";
  $("job").hidden = !job;
  $("undo").disabled = !current?.undo.length;
  $("doubtful").disabled = mostDoubtful() === null;
  $("save-nifti").disabled = !current || !(current.painted.size || segmented);
  $("save-dicom").disabled = $("save-nifti").disabled;
  $("save-dicom").hidden = !(current?.info.dicom && server.dicom_seg);
  const step = !current ? "open" : !painted ? "paint" : job || !segmented ? "segment" : "correct";
  for (const section of document.querySelectorAll("main > section")) section.removeAttribute("aria-current");
  $(`step-${step}`).setAttribute("aria-current", "step");
}

function renderVolumes() {
  const items = [...volumes.values()].map((volume) => {
    const { info } = volume;
    const facts = `${info.modality.toUpperCase()}, ${info.size.join(" × ")}${info.oblique ? ", oblique" : ""}`;
    const marks = [volume.painted.size ? `${volume.painted.size} painted` : "", info.segmented ? "segmented" : ""];
    const choose = make("button", { type: "button", className: "volume" }, info.name);
    choose.append(make("small", { textContent: [facts, ...marks.filter(Boolean)].join(" · ") }));
    choose.setAttribute("aria-pressed", String(volume === current));
    choose.addEventListener("click", () => attempt(() => show(info.id)));
    const remove = make("button", { type: "button", textContent: "×" });
    remove.setAttribute("aria-label", `Close ${info.name}`);
    remove.addEventListener("click", () => close(info.id));
    return make("li", {}, choose, remove);
  });
  const kept = [...$("volumes").querySelectorAll("button")].indexOf(document.activeElement);
  $("volumes").replaceChildren(...items);
  if (kept >= 0) $("volumes").querySelectorAll("button")[kept]?.focus();
  $("title").textContent = current?.info.name ?? "";
}

function renderSlice() {
  const [z, depth] = [viewer.slice, viewer.size[2]];
  const example = Boolean(current?.painted.has(z));
  const state = sliceState();
  Object.assign($("slice"), { max: Math.max(0, depth - 1), value: z, disabled: !current });
  $("slice").setAttribute("aria-valuetext", state);
  $("slice-state").textContent = state;
  $("slice-down").disabled = !current || z === 0;
  $("slice-up").disabled = !current || z === depth - 1;
  $("example").disabled = !current;
  $("example").setAttribute("aria-pressed", String(example));
  strip.show(Math.max(1, depth), current && confidence(current), current?.painted, z);
}

function doubtRow(said) {
  return make("tr", { className: "doubts" }, make("td", { attributes: { colspan: 3 }, textContent: `Look at it: ${said}.` }));
}

function renderResults() {
  const info = current?.info;
  const found = info?.segmented ? Object.keys(info.confidence).map(Number) : [];
  found.sort((one, other) => (info.confidence[one] ?? 0) - (info.confidence[other] ?? 0));
  const rows = found.map((value) => {
    const swatch = make("span", { className: "swatch", textContent: value, attributes: { "aria-hidden": "true" } });
    swatch.style.backgroundColor = colour(value);
    const sure = info.confidence[value];
    return make(
      "tr",
      {},
      make("td", {}, swatch, ` ${labels.name(value)}`),
      make("td", { textContent: `${(info.volumes[value] ?? 0).toFixed(1)} ml` }),
      make("td", { textContent: sure === null ? "nothing found" : sure.toFixed(2) }),
    );
  });
  const told = found.map((value) => (info.doubts[value] ?? []).join("; "));
  const withDoubts = rows.flatMap((row, place) => (told[place] ? [row, doubtRow(told[place])] : [row]));
  $("results").tBodies[0].replaceChildren(...withDoubts);
  $("results").hidden = $("confidence-note").hidden = !rows.length;
}

// ---------------------------------------------------------------- controls

function chooseTool(tool) {
  painter.tool = tool;
  press(document.querySelectorAll("#tools button"), document.querySelector(`[data-tool=${tool}]`));
  updateSurface();
}

function chooseView(view) {
  viewer.setView(view);
  press(document.querySelectorAll("#views button"), document.querySelector(`[data-view=${view}]`));
  updateSurface();
}

function updateSurface() {
  $("surface").classList.toggle("look", painter.tool === "look" || viewer.view !== "slice" || !current);
  painter.redrawRing();
}

function setRadius(radius) {
  painter.radius = Math.min(40, Math.max(0, radius));
  $("radius").value = $("radius-text").value = painter.radius;
  painter.redrawRing();
}

function undo() {
  if (painter.undo()) say("Undone.");
}

const nextView = () => {
  const order = ["slice", "planes", "render"];
  chooseView(order[(order.indexOf(viewer.view) + 1) % 3]);
};
const doubtful = () => {
  const z = mostDoubtful();
  if (z !== null) goTo(z);
};
const open = () => (server.data ? opening.browse("") : $("files").click());

function wire() {
  for (const button of document.querySelectorAll("#tools button")) button.addEventListener("click", () => chooseTool(button.dataset.tool));
  for (const button of document.querySelectorAll("#views button")) button.addEventListener("click", () => chooseView(button.dataset.view));
  const click = (id, action) => $(id).addEventListener("click", action);
  click("undo", undo);
  click("segment", segment);
  click("refine", refine);
  click("exchange", exchange);
  click("cancel", () => attempt(() => api.cancel(job.id)));
  click("doubtful", doubtful);
  click("example", toggleExample);
  click("slice-down", () => goTo(viewer.slice - 1));
  click("slice-up", () => goTo(viewer.slice + 1));
  click("show-help", () => $("help").showModal());
  click("alert-close", hideError);
  for (const format of ["nifti", "dicom"]) {
    click(`save-${format}`, () => attempt(async () => {
      await flush();
      const kind = format === "dicom" ? "dicom-seg" : "nifti";
      say(`${await api.download(`/api/volumes/${current.info.id}/export?format=${kind}`)} is saved.`);
    }));
  }
  $("slice").addEventListener("input", () => goTo(Number($("slice").value)));
  $("radius").addEventListener("input", () => setRadius(Number($("radius").value)));
  $("opacity").addEventListener("input", () => viewer.setOpacity($("opacity").value / 100));
  for (const id of ["low", "high"]) {
    $(id).addEventListener("input", () => {
      if (!current) return;
      const { least: from, most: to } = viewer.window;
      viewer.setWindow(...["low", "high"].map((one) => from + ($(one).value / 1000) * (to - from)));
    });
  }
  $("surface").addEventListener("wheel", (event) => {
    event.preventDefault();
    goTo(viewer.slice - Math.sign(event.deltaY));
  }, { passive: false });
  viewer.addEventListener("moved", () => {
    renderSlice();
    painter.redrawRing();
  });
  labels.addEventListener("changed", () => {
    painter.value = labels.active;
    if (current) viewer.setColours(labels.values());
    render();
  });
  listen({
    undo, segment, doubtful, open, step: (x, y, drawing) => painter.step(x, y, drawing), dab: () => painter.dab(),
    slice: (by) => goTo(viewer.slice + by), label: (value) => labels.choose(value), example: toggleExample, view: nextView,
    smaller: () => setRadius(painter.radius - 1), larger: () => setRadius(painter.radius + 1), help: () => $("help").showModal(),
    pen: () => chooseTool("pen"), fill: () => chooseTool("fill"), erase: () => chooseTool("erase"), look: () => chooseTool("look"),
  });
}

// ---------------------------------------------------------------- start

let server = {};

async function signIn() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  history.replaceState(null, "", location.pathname);
  try {
    return await api.begin(given);
  } catch (error) {
    if (error.status !== 401) throw error;
  }
  return new Promise((resolve) => {
    $("sign-in").addEventListener("cancel", (event) => event.preventDefault());
    $("sign-in-form").addEventListener("submit", (event) => {
      event.preventDefault();
      attempt(async () => {
        await api.begin($("token").value.trim());
        $("token").value = "";
        $("sign-in").close();
        resolve();
      });
    });
    $("sign-in").showModal();
  });
}

async function start() {
  await signIn();
  server = await api.state();
  opening.limit = server.limits.upload;
  $("browse-data").hidden = !server.data;
  $("choose-folder").hidden = !server.dicom;
  $("model").textContent = server.model;
  $("version").textContent = server.version;
  wire();
  await viewer.start($("canvas"));
  viewer.setOpacity(0.5);
  labels.set(server.labels);
  server.volumes.forEach(keep);
  if (volumes.size) await show(volumes.keys().next().value);
  render();
  document.body.dataset.ready = "yes";
  if (server.job) await attempt(() => follow(server.job));
}

start().catch(showError);
