// One tab of a session works, the others look: strokes of two would overwrite each other.
import * as api from "./api.js";

const SAY = 30000; // ms between words to the server, which also keep the session

// Fires "changed" when `reading` changed.
export class Tabs extends EventTarget {
  reading = false;

  async start() {
    await this.check();
    setInterval(() => this.check().catch(() => {}), SAY);
    addEventListener("pagehide", () => this.reading || api.leave());
    addEventListener("pageshow", (event) => event.persisted && this.check().catch(() => {}));
  }

  async check() {
    const { writer } = await api.write(false);
    if (writer && this.reading) return location.reload(); // the other tab is closed; its work is to be seen first
    if (writer !== this.reading) return undefined;
    this.reading = !writer;
    return this.dispatchEvent(new Event("changed"));
  }

  async take() {
    await api.write(true);
    location.reload();
  }
}
