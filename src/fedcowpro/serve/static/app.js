// The page as a whole: what is open, what is painted, and what the server makes of it.
import * as api from "./api.js";
import { colour } from "./colours.js";
import { Ends } from "./ends.js";
import { listen } from "./keys.js";
import { Labels } from "./labels.js";
import { Opening } from "./opening.js";
import { Overview } from "./overview.js";
import { $, attempt, hideError, make, press, say, showError, showNotes } from "./page.js";
import { Painter } from "./painter.js";
import { Saving } from "./saving.js";
import { Strip } from "./strip.js";
import { Tabs } from "./tabs.js";
import { Viewer } from "./viewer.js";

const viewer = new Viewer();
const painter = new Painter(viewer, $("surface"), $("ring"));
const labels = new Labels();
const strip = new Strip($("strip"), (z) => goTo(z));
const opening = new Opening(add, addAll, busy);
const overview = new Overview($("overview").querySelector("table"), (id) => attempt(() => look(id)), useMask);
// Open volumes by id: { info, bitmap, painted, undo, slice, unasked, ... }; the bitmap comes when the volume is first shown.
const volumes = new Map();
const saving = new Saving(volumes);
const tabs = new Tabs();
const ends = new Ends($("ends"), setEnds, (z) => goTo(z));
let current = null;
let job = null;
let suggestion = {};

// ---------------------------------------------------------------- open volumes

function keep(info) {
  const fresh = { bitmap: null, undo: [], redo: [], slice: Math.floor(info.size[2] / 2), unasked: new Set(), dirty: new Set(), gone: new Set(), endsChanged: false, changes: 0 };
  const known = volumes.get(info.id) ?? fresh;
  volumes.set(info.id, Object.assign(known, { info, painted: new Set(info.painted) }));
  return known;
}

async function add(info) {
  keep(info);
  await show(info.id);
  $("surface").focus();
}

// All images of a folder, which the server opens one by one; then the table shows them.
async function addAll(begun) {
  await follow(begun, "Opening.", "The folder is open.");
  const { volumes: infos } = await api.state();
  infos.forEach(keep);
  if (!current && infos.length) await show(infos[0].id);
  chooseView("table");
}

// From the table to a volume.
async function look(id) {
  chooseView("slice");
  await show(id);
  $("surface").focus();
}

// The label map beside an image, as an example or as a start.
async function useMask(id, use) {
  await attempt(async () => {
    await flush();
    const { volume, labels: list } = await api.takeMask(id, use);
    labels.set(list);
    await reload(keep(volume));
    await suggest();
    render();
    say(use === "example" ? `${volume.name} is an example.` : `${volume.name} has masks to correct.`);
  });
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
  viewer.hide(labels.hidden);
  setRadius(painter.radius);
  viewer.setColours(labels.values());
  painter.setTarget(chosen);
  viewer.setSlice(chosen.slice);
  if (chosen.window) viewer.setWindow(...chosen.window);
  offerWindows();
  renderWindow();
  render();
}

// Ask before work goes out of sight.
function mayClose({ info, painted }) {
  if (!painted.size && !info.segmented) return true;
  const work = [painted.size ? `${painted.size} painted ${painted.size === 1 ? "slice" : "slices"}` : "", info.segmented ? "masks" : ""];
  const then = server.kept && !info.sent ? "They come back when you open it again from the data folder." : "They are deleted with it.";
  $("closing-text").textContent = `${info.name} has ${work.filter(Boolean).join(" and ")}. ${then}`;
  $("closing").returnValue = "";
  $("closing").showModal();
  return new Promise((resolve) => {
    $("closing").addEventListener("close", () => resolve($("closing").returnValue === "close"), { once: true });
  });
}

async function close(id) {
  await attempt(async () => {
    if (!(await mayClose(volumes.get(id)))) return undefined;
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

painter.addEventListener("drawing", ({ detail: { target, z } }) => saving.drawn(target, z));
painter.addEventListener("painted", ({ detail: { target, z, painted } }) => {
  if (painted) {
    target.painted.add(z);
    reach(target, z);
    saving.drawn(target, z);
  } else {
    target.painted.delete(z);
    saving.forgotten(target, z);
  }
  render();
});

// An organ that is painted beyond its end reaches to there.
function reach(volume, z) {
  const [width, height] = volume.info.size;
  const pixels = volume.bitmap.subarray(z * width * height, (z + 1) * width * height);
  for (const [value, [first, last]] of Object.entries(volume.info.extents)) {
    if (!pixels.includes(Number(value))) continue;
    volume.info.extents[value] = [first === null ? null : Math.min(first, z), last === null ? null : Math.max(last, z)];
  }
}

const flush = () => saving.flush();

saving.addEventListener("state", renderSaved);
saving.addEventListener("refused", ({ detail: { error } }) => {
  showError(error);
  if (error.status === 409) attempt(() => tabs.check());
});

// ---------------------------------------------------------------- settings, which come back with the work

let settingsTimer = 0;

function settings() {
  const places = [...volumes].map(([id, one]) => [id, { slice: one === current ? viewer.slice : one.slice, window: one.window ?? null, unasked: [...one.unasked] }]);
  return { radius: painter.radius, opacity: Number($("opacity").value), outline: viewer.plane.outline, label: labels.active, current: current?.info.id ?? null, volumes: Object.fromEntries(places) };
}

function keepSettings() {
  if (tabs.reading || settingsTimer || !document.body.dataset.ready) return;
  settingsTimer = setTimeout(() => {
    settingsTimer = 0;
    api.putSettings(settings()).catch(() => keepSettings());
  }, 600);
}

function takeSettings({ radius, opacity, label, volumes: places = {} }) {
  if (radius !== undefined) setRadius(radius);
  $("opacity").value = opacity ?? 50;
  if (label !== undefined) labels.choose(label);
  for (const [id, place] of Object.entries(places)) {
    const volume = volumes.get(id);
    if (volume) Object.assign(volume, { slice: place.slice, window: place.window, unasked: new Set(place.unasked) });
  }
}

// Take the slice as it is, or make it unknown again.
async function toggleExample() {
  if (!current) return;
  const [target, z] = [current, viewer.slice];
  await attempt(async () => {
    if (!target.painted.has(z)) {
      target.painted.add(z);
      reach(target, z);
      saving.drawn(target, z);
      await flush();
    } else {
      target.painted.delete(z);
      saving.forgotten(target, z);
      await flush();
      await reload(target);
    }
    say(target.painted.has(z) ? `Slice ${z + 1} is an example.` : `Slice ${z + 1} is no example any more.`);
  });
  render();
}

// An answer of the server that no stroke or end has overtaken meanwhile.
async function upToDate(volume, ask) {
  for (;;) {
    await flush();
    const { changes } = volume;
    const answer = await ask(volume.info.id);
    if (volume.changes === changes) return answer;
  }
}

const refresh = async (volume) => keep(await upToDate(volume, api.volume));

// Labels as the server has them.
async function reload(volume) {
  const fresh = await upToDate(volume, api.labels);
  volume.undo.length = volume.redo.length = 0;
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

// Masks by the shapes on the painted slices alone.
async function interpolate() {
  const volume = current;
  await attempt(async () => {
    await flush();
    keep(await api.interpolate(volume.info.id));
    volume.earlier = false;
    await reload(volume);
    await suggest();
    render();
    say("Shapes between the painted slices are interpolated.");
  });
}

async function follow(begun, said, done = "The volumes are segmented.") {
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
    say({ done, cancelled: "Cancelled.", failed: "It failed." }[last.state]);
    for (const volume of volumes.values()) {
      await refresh(volume);
      if (last.state === "done") volume.earlier = false;
      if (volume !== current) volume.bitmap = null;
    }
    if (current) await reload(current);
    if (last.state === "done") {
      showNotes([...last.notes, ...[...volumes.values()].flatMap((volume) => volume.info.notes)]);
      await suggest();
    }
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

// The slice that is most worth painting next, by the server's rule.
async function suggest() {
  suggestion = await api.suggestion();
  renderNext();
}

async function toNext() {
  if ($("next").disabled) return;
  await attempt(async () => {
    await flush();
    await suggest();
    const { volume, slice, label } = suggestion;
    if (volume === undefined) return say("No slice is in doubt.");
    if (volumes.get(volume) !== current) await show(volume);
    labels.choose(label);
    goTo(slice);
    return say($("next-text").textContent);
  });
}

// ---------------------------------------------------------------- where organs end

const MOST_ENDS = 4; // rows of labels under the strip

const endsOf = (volume, value) => volume.info.extents[value] ?? [null, null];

async function setEnds(value, [first, last]) {
  const volume = current;
  if (first === null && last === null) delete volume.info.extents[value];
  else volume.info.extents[value] = [first, last];
  saving.ended(volume);
  render();
  await attempt(async () => {
    await refresh(volume);
    await reload(volume); // the mask is cut
    await suggest();
    render();
  });
  say(`${labels.name(value)}: from slice ${first === null ? "?" : first + 1} to ${last === null ? "?" : last + 1}.`);
}

// The keys mean the chosen label, the question's buttons the one that is asked for.
function setEnd(index, value = labels.active) {
  if (!current) return;
  ends.set(value, endsOf(current, value), index, viewer.slice);
}

const isShown = (volume, value) => volume.info.volumes[value] !== undefined || volume.info.extents[value] !== undefined;

// The label whose ends are to be asked for: painted here, and not all is said; the chosen one first.
function askedFor() {
  if (!current?.info.segmented || !current.painted.size) return undefined;
  const open = labels.values().filter((value) => current.info.volumes[value] !== undefined && endsOf(current, value).includes(null));
  const left = open.filter((value) => !current.unasked.has(value));
  return left.includes(labels.active) ? labels.active : left[0];
}

function renderEnds() {
  const shown = current ? labels.values().filter((value) => value === labels.active || isShown(current, value)) : [];
  const values = shown.length > MOST_ENDS ? [labels.active] : shown; // the image needs the room
  ends.show(viewer.size[2], values.map((value) => ({ value, name: labels.name(value), ends: endsOf(current, value) })));
  const asked = job ? undefined : askedFor();
  $("ask").hidden = asked === undefined;
  if (asked === undefined) return;
  const [first, last] = endsOf(current, asked);
  const name = labels.name(asked);
  $("ask-text").textContent =
    first === null && last === null
      ? `Where does ${name} begin and end? Go to its first and its last slice${asked === labels.active ? " (keys [ and ])" : ""}: the masks become much better.`
      : `And where is the ${first === null ? "first" : "last"} slice of ${name}?`;
  $("ask-first").setAttribute("aria-pressed", String(first !== null));
  $("ask-last").setAttribute("aria-pressed", String(last !== null));
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
  renderOverview();
  renderEnds();
  renderNext();
  const painted = [...volumes.values()].some((volume) => volume.painted.size);
  const segmented = Boolean(current?.info.segmented);
  $("segment").disabled = Boolean(job) || !painted;
  $("refine").disabled = $("segment").disabled;
  $("exchange").hidden = !current?.info.refined;
  $("exchange").disabled = Boolean(job);
  $("exchange").textContent = current?.earlier ? "Show the newer masks" : "Show the masks of before";
  $("job").hidden = !job;
  $("undo").disabled = !current?.undo.length;
  $("redo").disabled = !current?.redo.length;
  $("clear").disabled = !current;
  $("interpolate").disabled = Boolean(job) || !current?.painted.size;
  $("save-nifti").disabled = !current || !(current.painted.size || segmented);
  $("save-dicom").disabled = $("save-rtstruct").disabled = $("save-nifti").disabled;
  $("save-all").hidden = volumes.size < 2;
  $("save-all").disabled = ![...volumes.values()].some((volume) => volume.painted.size || volume.info.segmented);
  $("save-dicom").hidden = $("save-rtstruct").hidden = !(current?.info.dicom && server.dicom_seg);
  const step = !current ? "open" : !painted ? "paint" : job || !segmented ? "segment" : "correct";
  for (const section of document.querySelectorAll("section[id^=step-]")) section.removeAttribute("aria-current");
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

function renderSaved() {
  const { pending, offline } = saving;
  $("saved").textContent = offline
    ? `The server does not answer. ${pending} ${pending === 1 ? "change is" : "changes are"} kept here and sent later.`
    : pending ? "Saving …" : volumes.size ? "All is saved." : "";
  $("saved").classList.toggle("bad", offline);
}

function renderOverview() {
  const tabular = viewer.view === "table";
  $("overview").hidden = !tabular;
  for (const id of ["screen", "strip-row", "slice-row", "legend", "display"]) $(id).hidden = tabular;
  if (tabular) overview.show([...volumes.values()], labels);
}

function renderNext() {
  const found = volumes.get(suggestion.volume);
  $("next").disabled = Boolean(job) || !found;
  const place = found && (found === current ? "" : ` of ${found.info.name}`);
  $("next-text").title = $("next-text").textContent = found
    ? `Slice ${suggestion.slice + 1}${place}: about ${suggestion.millilitres.toFixed(0)} ml in doubt there and near it, ${labels.name(suggestion.label)} first`
    : "";
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
      make("td", { textContent: sure !== null ? sure.toFixed(2) : info.volumes[value] ? "not known" : "nothing found" }),
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
  attempt(async () => {
    await viewer.setView(view);
    renderOverview();
  });
  press(document.querySelectorAll("[data-view]"), document.querySelector(`[data-view=${view}]`));
  updateSurface();
}

function updateSurface() {
  $("surface").classList.toggle("look", viewer.view !== "slice" || !current);
  $("surface").classList.toggle("moves", painter.tool === "look");
  painter.redrawRing();
}

// Windows in which CT is read, Hounsfield units.
const PRESETS = { Abdomen: [-160, 240], Liver: [-30, 150], Bone: [-450, 1050], Lung: [-1350, 150], Brain: [0, 80] };

function offerWindows() {
  const names = ["As opened", ...(current.info.modality === "ct" ? Object.keys(PRESETS) : []), "Whole range"];
  $("preset").replaceChildren(make("option", { textContent: "Choose", value: "" }), ...names.map((textContent) => make("option", { textContent })));
  const [from, to] = current.only ?? [viewer.window.low, viewer.window.high].map(Math.round);
  [$("only-from").value, $("only-to").value] = [from, to];
  setRange();
}

function chooseWindow(name) {
  const { least, most } = viewer.window;
  if (name === "As opened") viewer.resetWindow();
  else if (name) viewer.setWindow(...(PRESETS[name] ?? [least, most]));
  $("preset").value = "";
}

function renderWindow() {
  if (!current) return;
  const { least, most, low, high } = viewer.window;
  const unit = current.info.modality === "ct" ? " HU" : "";
  for (const [id, value] of [["low", low], ["high", high]]) {
    $(id).value = Math.round((1000 * (value - least)) / (most - least || 1));
    $(`${id}-text`).value = `${Math.abs(value) < 10 ? value.toFixed(2) : Math.round(value)}${unit}`;
  }
}

function setRange() {
  painter.range = $("only").checked ? [Number($("only-from").value), Number($("only-to").value)] : null;
  if (current) current.only = [Number($("only-from").value), Number($("only-to").value)];
}

function setRadius(radius) {
  painter.radius = Math.min(40, Math.max(0, radius));
  $("radius").value = painter.radius;
  const across = (2 * painter.radius + 1) * viewer.millimetres[0];
  $("radius-text").value = current ? `${painter.radius} pixels, ${across.toFixed(across < 10 ? 1 : 0)} mm across` : `${painter.radius} pixels`;
  painter.redrawRing();
  keepSettings();
}

function undo() {
  if (painter.undo()) say("Undone.");
}

function redo() {
  if (painter.redo()) say("Done again.");
}

function setOpacity(percent) {
  viewer.setOpacity(percent / 100);
  $("opacity-text").value = `${percent} %`;
}

function setOutline(outline) {
  viewer.setOutline(outline);
  $("outline").setAttribute("aria-pressed", String(outline));
  keepSettings();
}

const outline = () => setOutline($("outline").getAttribute("aria-pressed") !== "true");

const nextView = () => {
  const order = ["slice", "planes", "render"];
  chooseView(order[(order.indexOf(viewer.view) + 1) % 3]);
};
const open = () => (server.data ? opening.browse("") : $("files").click());

function renderReading() {
  $("reading").hidden = !tabs.reading;
  painter.locked = tabs.reading;
  document.body.classList.toggle("reads", tabs.reading);
  for (const id of ["side", "ends", "ask", "actions", "example"]) $(id).inert = tabs.reading;
}

function wire() {
  tabs.addEventListener("changed", renderReading);
  renderReading();
  $("take").addEventListener("click", () => attempt(() => tabs.take()));
  for (const button of document.querySelectorAll("#tools button")) button.addEventListener("click", () => chooseTool(button.dataset.tool));
  for (const button of document.querySelectorAll("[data-view]")) button.addEventListener("click", () => chooseView(button.dataset.view));
  const click = (id, action) => $(id).addEventListener("click", action);
  click("undo", undo);
  click("redo", redo);
  click("clear", () => painter.clear());
  click("outline", outline);
  click("zoom-in", () => viewer.zoom(1.5));
  click("zoom-out", () => viewer.zoom(1 / 1.5));
  click("zoom-fit", () => viewer.fit());
  for (const id of ["only", "only-from", "only-to"]) $(id).addEventListener("change", setRange);
  $("preset").addEventListener("change", () => chooseWindow($("preset").value));
  viewer.addEventListener("window", () => {
    current.window = [viewer.window.low, viewer.window.high];
    renderWindow();
    keepSettings();
  });
  labels.addEventListener("shown", () => viewer.hide(labels.hidden));
  click("segment", segment);
  click("refine", refine);
  click("exchange", exchange);
  click("cancel", () => attempt(() => api.cancel(job.id)));
  click("next", toNext);
  click("interpolate", interpolate);
  click("ask-first", () => setEnd(0, askedFor()));
  click("ask-last", () => setEnd(1, askedFor()));
  click("ask-later", () => {
    current.unasked.add(askedFor());
    renderEnds();
    keepSettings();
  });
  click("example", toggleExample);
  click("slice-down", () => goTo(viewer.slice - 1));
  click("slice-up", () => goTo(viewer.slice + 1));
  click("show-help", () => $("help").showModal());
  click("alert-close", hideError);
  $("slicer-address").addEventListener("focus", () => $("slicer-address").select());
  for (const [format, kind] of [["nifti", "nifti"], ["dicom", "dicom-seg"], ["rtstruct", "rtstruct"]]) {
    click(`save-${format}`, () => attempt(async () => {
      await flush();
      say(`${await api.download(`/api/volumes/${current.info.id}/export?format=${kind}`)} is saved.`);
    }));
  }
  click("save-all", () => attempt(async () => {
    await flush();
    say(`${await api.download("/api/export-all")} is saved.`);
  }));
  $("slice").addEventListener("input", () => goTo(Number($("slice").value)));
  $("radius").addEventListener("input", () => setRadius(Number($("radius").value)));
  $("opacity").addEventListener("input", () => {
    setOpacity($("opacity").value);
    keepSettings();
  });
  for (const id of ["low", "high"]) {
    $(id).addEventListener("input", () => {
      if (!current) return;
      const { least: from, most: to } = viewer.window;
      viewer.setWindow(...["low", "high"].map((one) => from + ($(one).value / 1000) * (to - from)));
    });
  }
  $("surface").addEventListener("wheel", (event) => {
    event.preventDefault();
    if (event.ctrlKey) viewer.zoom(event.deltaY < 0 ? 1.2 : 1 / 1.2, event.clientX, event.clientY);
    else goTo(viewer.slice - Math.sign(event.deltaY));
  }, { passive: false });
  viewer.addEventListener("moved", () => {
    renderSlice();
    keepSettings();
    painter.redrawRing();
  });
  labels.addEventListener("changed", () => {
    painter.value = labels.active;
    if (current) viewer.setColours(labels.values());
    render();
    keepSettings();
  });
  listen({
    undo, redo, outline, segment, table: () => chooseView(viewer.view === "table" ? "slice" : "table"), next: toNext, open, first: () => setEnd(0), last: () => setEnd(1), step: (x, y, drawing) => painter.step(x, y, drawing), dab: () => painter.dab(),
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
  return askForToken();
}

let asking = null;

function askForToken() {
  asking ??= new Promise((resolve) => {
    $("sign-in").oncancel = (event) => event.preventDefault();
    $("sign-in-form").onsubmit = (event) => {
      event.preventDefault();
      attempt(async () => {
        await api.begin($("token").value.trim());
        $("token").value = "";
        $("sign-in").close();
        asking = null;
        resolve();
      });
    };
    $("sign-in").showModal();
  });
  return asking;
}

async function start() {
  api.hooks.signIn = askForToken;
  await signIn();
  await tabs.start();
  server = await api.state();
  opening.limit = server.limits.upload;
  $("browse-data").hidden = !server.data;
  $("choose-folder").hidden = !server.dicom;
  $("model").textContent = server.model;
  $("version").textContent = server.version;
  $("slicer-address").value = location.origin + server.slicer;
  $("terms").replaceChildren(...server.terms.map((value) => make("option", { value })));
  wire();
  viewer.start($("plane"), $("canvas"));
  labels.set(server.labels);
  server.volumes.forEach(keep);
  takeSettings(server.settings);
  setOpacity($("opacity").value);
  if (server.settings.outline) setOutline(true);
  const last = server.settings.current;
  if (volumes.size) await show(volumes.has(last) ? last : volumes.keys().next().value);
  await suggest();
  render();
  renderSaved();
  showNotes(server.absent);
  document.body.dataset.ready = "yes";
  if (server.job) await attempt(() => follow(server.job));
}

start().catch(showError);
