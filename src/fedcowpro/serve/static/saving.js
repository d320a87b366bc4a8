// Sends what was painted and said, in order, again and again until the server has it.
import * as api from "./api.js";

const SEND_AFTER = 300; // ms after the first change, so that quick strokes go together
const TRY_AGAIN = 1500; // ms after the server did not answer

// Fires "state" when `pending` or `offline` changed, "refused" (detail: error, volume) when the server does not take it.
export class Saving extends EventTarget {
  offline = false;
  #volumes;
  #timer = 0;
  #sending = null;

  // volumes: a map of { info, bitmap, dirty: Set, gone: Set, endsChanged, changes: their number so far }.
  constructor(volumes) {
    super();
    this.#volumes = volumes;
    addEventListener("online", () => this.#soon(0));
    addEventListener("pagehide", () => this.#send());
    addEventListener("beforeunload", (event) => this.pending && event.preventDefault());
  }

  get pending() {
    return [...this.#volumes.values()].reduce((sum, one) => sum + one.dirty.size + one.gone.size + Number(one.endsChanged), 0);
  }

  // The slice is to be sent as it is drawn then.
  drawn(volume, z) {
    volume.gone.delete(z);
    volume.dirty.add(z);
    this.#changed(volume);
  }

  forgotten(volume, z) {
    volume.dirty.delete(z);
    volume.gone.add(z);
    this.#changed(volume);
  }

  ended(volume) {
    volume.endsChanged = true;
    this.#changed(volume);
  }

  #changed(volume) {
    volume.changes += 1;
    this.#soon();
  }

  // Send now; throws where the server does not answer.
  async flush() {
    while (this.pending || this.#sending) {
      await (this.#sending ?? this.#send());
      if (this.offline) throw api.gone();
    }
  }

  #soon(after = SEND_AFTER) {
    this.#tell();
    if (this.#timer) return;
    this.#timer = setTimeout(() => this.#send(), this.offline ? Math.max(after, TRY_AGAIN) : after);
  }

  #send() {
    clearTimeout(this.#timer);
    this.#timer = 0;
    this.#sending ??= this.#all().finally(() => {
      this.#sending = null;
      if (this.pending) this.#soon();
      this.#tell();
    });
    return this.#sending;
  }

  async #all() {
    for (const volume of [...this.#volumes.values()]) {
      await this.#take(volume, volume.gone, (numbers) => api.forgetSlices(volume.info.id, numbers));
      await this.#take(volume, volume.dirty, (numbers) => this.#slices(volume, numbers));
      if (volume.endsChanged) {
        volume.endsChanged = false;
        await this.#attempt(volume, () => api.putEnds(volume.info.id, volume.info.extents), () => (volume.endsChanged = true));
      }
    }
  }

  async #take(volume, waiting, request) {
    const numbers = [...waiting];
    if (!numbers.length) return;
    waiting.clear();
    await this.#attempt(volume, () => request(numbers), () => numbers.forEach((z) => waiting.add(z)));
  }

  async #slices(volume, numbers) {
    const [width, height] = volume.info.size;
    const size = width * height;
    const body = new Uint8Array(numbers.length * size);
    numbers.forEach((z, i) => body.set(volume.bitmap.subarray(z * size, (z + 1) * size), i * size));
    const { extents } = await api.putSlices(volume.info.id, numbers, body);
    if (!volume.endsChanged) volume.info.extents = extents; // an organ that was drawn beyond its end reaches to there
  }

  async #attempt(volume, request, again) {
    try {
      await request();
      this.offline = false;
    } catch (error) {
      this.offline = error.status === 0 || error.status >= 500;
      if (this.offline) again();
      else this.dispatchEvent(new CustomEvent("refused", { detail: { error, volume } }));
    }
  }

  #tell() {
    this.dispatchEvent(new Event("state"));
  }
}
