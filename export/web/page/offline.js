// Visits without a network: the service worker (service.js) serves what is kept here, in a cache of this version.

const version = document.querySelector("meta[name=version]")?.content; // the page in one file has none
const able = Boolean(version) && location.protocol.startsWith("http") && "serviceWorker" in navigator && "caches" in globalThis;
const place = new URL("./", location).href;
const PHOTO = "shared-photo";

const cache = () => caches.open(`codi ${place} ${version}`); // as in service.js

/** Keep a file of the site. It is not kept where the browser gives no room. */
export async function keep(path, blob) {
  if (!able) return;
  await cache().then(async (kept) => (await kept.match(path)) ?? kept.put(path, new Response(blob))).catch(() => {});
}

/**
 * Whether the page works without a network: these files are kept, and the service worker has started.
 */
export async function isKept(paths) {
  if (!able) return false;
  const kept = await cache();
  const found = await Promise.all(paths.map((path) => kept.match(path)));
  if (!found.every(Boolean) || !(await navigator.serviceWorker.getRegistration())) return false;
  await navigator.serviceWorker.ready;
  return true;
}

/**
 * Start the service worker.
 *
 * @param onUpdate is called with a function that replaces the page by its new version, when there is one
 */
export async function startOffline(onUpdate) {
  if (!able) return;
  const service = navigator.serviceWorker;
  const registration = await service.register("service.js", { updateViaCache: "none" }).catch(() => null);
  if (!registration) return; // cookies are blocked, or the window is private
  if (service.controller) { // all windows of the page go over to the new version, none has files of both
    service.addEventListener("controllerchange", () => location.reload(), { once: true });
  }
  const offer = () => {
    if (!registration.waiting || !service.controller) return; // the first version has begun by itself
    onUpdate(() => registration.waiting.postMessage("begin"));
  };
  offer();
  registration.addEventListener("updatefound", () => registration.installing.addEventListener("statechange", offer));
  if (matchMedia("(display-mode: standalone)").matches) navigator.storage?.persist?.();
}

/** The photo that another app shared with this one, a File; null if there is none. */
export async function sharedPhoto() {
  if (!able || new URLSearchParams(location.search).get("shared") === null) return null;
  history.replaceState(null, "", "./");
  const kept = await cache();
  const photo = await kept.match(PHOTO);
  await kept.delete(PHOTO);
  if (!photo) return null;
  const name = decodeURIComponent(photo.headers.get("X-Name"));
  return new File([await photo.blob()], name, { type: photo.headers.get("Content-Type") });
}
