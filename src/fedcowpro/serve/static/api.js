// Talks to the server. Every call may throw a `Refusal`, which carries what was got, what was expected and a remedy.

export class Refusal extends Error {
  constructor(status, { got, expected, remedy }) {
    super(got);
    Object.assign(this, { status, got, expected, remedy });
  }
}

const GONE = {
  got: "the server does not answer",
  expected: "a running server",
  remedy: "look at the window in which it was started",
};

export const gone = () => new Refusal(0, GONE);

// This tab: another one of the same session may only look. A reloaded page is the same tab, a copied one is not.
const reloaded = performance.getEntriesByType("navigation")[0]?.type === "reload";
const tab = (reloaded && sessionStorage.getItem("tab")) || `${Date.now()}-${Math.random()}`;
sessionStorage.setItem("tab", tab);

async function call(method, path, { json, body, headers, keepalive = false, again = true } = {}) {
  const options = { method, keepalive, headers: { "X-FedCoWPro": "1", "X-FedCoWPro-Tab": tab, ...headers } };
  if (json !== undefined) {
    options.body = JSON.stringify(json);
    options.headers["Content-Type"] = "application/json";
  } else if (method === "POST" || method === "PUT") {
    options.body = body ?? "";
  }
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw gone();
  }
  if (answer.status === 401 && again && path !== "/api/session") {
    await beginAgain(); // the session was idle for too long, or the server was started again
    return call(method, path, { json, body, headers, again: false });
  }
  if (!answer.ok) {
    const said = await answer.json().catch(() => ({}));
    const unknown = { got: `an answer with status ${answer.status}`, expected: "a good one", remedy: "load the page again" };
    throw new Refusal(answer.status, said.error ?? unknown);
  }
  return answer;
}

const asJson = async (...request) => (await call(...request)).json();
const asBytes = async (...request) => (await call(...request)).arrayBuffer();

// What asks a person for the token, where the server wants it again.
export const hooks = { signIn: null };

async function beginAgain() {
  try {
    await begin(null);
  } catch (error) {
    if (error.status !== 401 || !hooks.signIn) throw error;
    await hooks.signIn();
  }
}

export const begin = (token) =>
  asJson("POST", "/api/session", token ? { headers: { Authorization: `Bearer ${token}` } } : {});
export const write = (take) => asJson("POST", `/api/writer?take=${take}`);
export const leave = () => call("DELETE", "/api/writer", { keepalive: true, again: false }).catch(() => {});
export const putSettings = (settings) => asJson("PUT", "/api/settings", { json: { settings } });
export const state = () => asJson("GET", "/api/state");
export const folder = (path) => asJson("GET", `/api/folder?path=${encodeURIComponent(path)}`);
export const openPlace = (path, series) => asJson("POST", "/api/open", { json: { path, series } });
export const volume = (id) => asJson("GET", `/api/volumes/${id}`);
export const image = (id) => asBytes("GET", `/api/volumes/${id}/image`);
export const labels = async (id) => new Uint8Array(await asBytes("GET", `/api/volumes/${id}/labels`));
export const close = (id) => asJson("DELETE", `/api/volumes/${id}`);
export const putLabels = (list) => asJson("PUT", "/api/labels", { json: { labels: list } });
export const putSlices = (id, numbers, body) =>
  asJson("PUT", `/api/volumes/${id}/slices?numbers=${numbers.join(",")}`, { body });
export const forgetSlices = (id, numbers) =>
  asJson("DELETE", `/api/volumes/${id}/slices?numbers=${numbers.join(",")}`);
export const putEnds = (id, extents) => asJson("PUT", `/api/volumes/${id}/extents`, { json: { extents } });
export const interpolate = (id) => asJson("POST", `/api/volumes/${id}/interpolate`);
export const suggestion = () => asJson("GET", "/api/suggestion");
export const openAll = (path) => asJson("POST", "/api/open-all", { json: { path } });
export const takeMask = (id, use) => asJson("POST", `/api/volumes/${id}/mask?use=${use}`);
export const thumbnail = async (id) => new Uint8Array(await asBytes("GET", `/api/volumes/${id}/thumbnail`));
export const segment = () => asJson("POST", "/api/segment");
export const refine = () => asJson("POST", "/api/refine");
export const exchange = (id) => asJson("POST", `/api/volumes/${id}/exchange`);
export const cancel = (job) => asJson("DELETE", `/api/jobs/${job}`);

// Send files one by one, a few at a time; returns the upload's id.
export async function upload(files, onProgress) {
  const { id } = await asJson("POST", "/api/uploads");
  let next = 0;
  let sent = 0;
  const lane = async () => {
    while (next < files.length) {
      const number = next++;
      const name = encodeURIComponent(files[number].name);
      await call("PUT", `/api/uploads/${id}/${number}?name=${name}`, { body: files[number] });
      onProgress(++sent, files.length);
    }
  };
  try {
    await Promise.all([lane(), lane(), lane()]);
  } catch (refusal) {
    next = files.length;
    await call("DELETE", `/api/uploads/${id}`).catch(() => {});
    throw refusal;
  }
  return id;
}

export const openUpload = (id, name, series) => asJson("POST", `/api/uploads/${id}/open`, { json: { name, series } });

// Follow a job until it ends; resolves with its last state.
export function follow(job, onProgress) {
  return new Promise((resolve, reject) => {
    const source = new EventSource(`/api/jobs/${job}/events`);
    source.onmessage = (event) => {
      const now = JSON.parse(event.data);
      onProgress(now);
      if (["done", "failed", "cancelled"].includes(now.state)) {
        source.close();
        resolve(now);
      }
    };
    source.onerror = () => {
      // The browser tries again by itself while the stream is only interrupted.
      if (source.readyState === EventSource.CLOSED) reject(gone());
    };
  });
}

// Save what an address gives as a file.
export async function download(path) {
  const answer = await call("GET", path);
  const name = /filename="([^"]+)"/.exec(answer.headers.get("Content-Disposition") ?? "")?.[1] ?? "mask";
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await answer.blob());
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  return name;
}
