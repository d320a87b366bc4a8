// Ways in: the data folder's dialog, chosen files, dropped files and folders.
import * as api from "./api.js";
import { $, attempt, make, say, showNotes } from "./page.js";

// `onOpened(info)` is called with each volume that the server has opened, `onAll(job)` when it opens a whole folder;
// `busy(text)` says what is going on.
export class Opening {
  limit = Infinity; // bytes of one upload

  constructor(onOpened, onAll, busy) {
    Object.assign(this, { onOpened, onAll, busy });
    $("browse-data").addEventListener("click", () => this.browse(""));
    $("choose-files").addEventListener("click", () => $("files").click());
    $("choose-folder").addEventListener("click", () => $("folder-files").click());
    for (const id of ["files", "folder-files"]) {
      $(id).addEventListener("change", () => {
        this.send([...$(id).files]);
        $(id).value = "";
      });
    }
    this.#listenToDrops();
  }

  async browse(path) {
    await attempt(async () => {
      const { entries, images, series } = await api.folder(path);
      $("browse-place").textContent = path ? `In ${path}` : "Volumes that the server was started with";
      const items = [];
      if (path) items.push(this.#item("↑ Folder above", () => this.browse(path.split("/").slice(0, -1).join("/"))));
      if (images > 1) items.push(this.#item(`Open all of this folder (${images} images)`, () => this.#openAll(path)));
      if (series) items.push(this.#item("Open this folder as a DICOM series", () => this.#openPlace(path)));
      for (const entry of entries) {
        if (entry.kind === "unusable") {
          items.push(make("li", { textContent: `${entry.name}: ${entry.why}` }));
          continue;
        }
        const inside = () => (entry.kind === "nifti" ? this.#openPlace(entry.path) : this.browse(entry.path));
        const kind = { folder: "folder", series: "folder with DICOM", nifti: `${(entry.size / 2 ** 20).toFixed(1)} MB` };
        items.push(this.#item(`${entry.name} (${kind[entry.kind]})`, inside));
      }
      if (!items.length) items.push(make("li", { textContent: "Nothing here that could be opened." }));
      $("browse-list").replaceChildren(...items);
      if (!$("browse").open) $("browse").showModal();
      $("browse-list").querySelector("button")?.focus();
    });
  }

  #item(text, action) {
    return make("li", {}, make("button", { type: "button", textContent: text, onclick: action }));
  }

  async #openAll(path) {
    $("browse").close();
    await attempt(async () => this.onAll(await api.openAll(path)));
  }

  async #openPlace(path) {
    $("browse").close();
    await this.#open(path.split("/").at(-1) || "the data folder", (series) => api.openPlace(path, series));
  }

  async send(files) {
    const chosen = files.filter((file) => !file.name.startsWith("."));
    if (!chosen.length) return;
    const name = chosen.length === 1 ? chosen[0].name : chosen[0].webkitRelativePath?.split("/")[0] || "series";
    await attempt(async () => {
      const size = chosen.reduce((sum, file) => sum + file.size, 0);
      if (size > this.limit) {
        const got = `${name}: ${(size / 2 ** 20).toFixed(0)} MB`;
        const expected = `at most ${(this.limit / 2 ** 20).toFixed(0)} MB`;
        throw new api.Refusal(413, { got, expected, remedy: "crop the volume, or start the server with a larger --max-upload" });
      }
      this.busy(`Sending ${name}`);
      const id = await api.upload(chosen, (done, total) => this.busy(`Sending ${name}: ${done} of ${total}`));
      await this.#open(name, (series) => api.openUpload(id, name, series));
    });
    this.busy("");
  }

  async #open(name, ask) {
    await attempt(async () => {
      this.busy(`Reading ${name}`);
      let answer = await ask(null);
      if (answer.choices) {
        const series = await this.#choose(answer.choices);
        if (series === null) return;
        answer = await ask(series);
      }
      await this.onOpened(answer);
      say(`${answer.name} is open: ${answer.size[2]} slices.`);
      showNotes(answer.notes);
    });
    this.busy("");
  }

  #choose(choices) {
    return new Promise((resolve) => {
      let chosen = null;
      const items = choices.map((text, number) =>
        this.#item(text, () => {
          chosen = number;
          $("choices").close();
        }),
      );
      $("choices-list").replaceChildren(...items);
      $("choices").addEventListener("close", () => resolve(chosen), { once: true });
      $("choices").showModal();
    });
  }

  #listenToDrops() {
    let depth = 0;
    const isFiles = (event) => event.dataTransfer?.types.includes("Files");
    const show = (change) => {
      depth = change ? Math.max(0, depth + change) : 0;
      $("dropping").hidden = depth === 0;
    };
    addEventListener("dragenter", (event) => isFiles(event) && show(1));
    addEventListener("dragleave", (event) => isFiles(event) && show(-1));
    addEventListener("dragover", (event) => event.preventDefault());
    addEventListener("drop", async (event) => {
      event.preventDefault();
      show(0);
      // Entries must be asked for before the first wait.
      const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
      const files = entries.length ? (await Promise.all(entries.map(filesOf))).flat() : [...event.dataTransfer.files];
      this.send(files);
    });
  }
}

async function filesOf(entry) {
  if (entry.isFile) return [await new Promise((resolve, reject) => entry.file(resolve, reject))];
  const reader = entry.createReader();
  const found = [];
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) break;
    found.push(...some);
  }
  return (await Promise.all(found.map(filesOf))).flat();
}
