// The service worker: it serves this version of the page from the browser's cache, also without a network.
//
// A new version is another service.js. It fetches all of its own page before it begins, and then drops the older one's
// files, so a page is never made of two versions. The large files (graphs, runtime) are kept by the page, offline.js,
// after it has checked them.

const VERSION = "<!--version-->";
const SHELL = "<!--shell-->".split(" ").map((file) => file.split("|")); // [path, integrity]
const place = registration.scope;
const NAME = `codi ${place} ${VERSION}`;

addEventListener("install", (event) => event.waitUntil(fill()));

addEventListener("activate", (event) => event.waitUntil(dropOthers()));

addEventListener("message", ({ data }) => data === "begin" && skipWaiting());

addEventListener("fetch", (event) => {
  const { request } = event;
  const { origin, pathname } = new URL(request.url);
  const path = (origin + pathname).slice(place.length);
  if (!(origin + pathname).startsWith(place)) return;
  if (request.method === "POST" && path === "share") event.respondWith(share(request));
  if (request.method === "GET") event.respondWith(answer(request, path));
});

async function fill() {
  const cache = await caches.open(NAME);
  const files = SHELL.map(async ([path, integrity]) => {
    const response = await fetch(path, { cache: "no-cache", integrity });
    if (!response.ok) throw new Error(`${path}: ${response.status}`);
    await cache.put(path, response);
  });
  await Promise.all(files);
}

async function dropOthers() {
  const names = await caches.keys();
  const others = names.filter((name) => name.startsWith(`codi ${place} `) && name !== NAME);
  await Promise.all(others.map((name) => caches.delete(name)));
}

async function answer(request, path) {
  const cache = await caches.open(NAME);
  return (await cache.match(path === "" ? "index.html" : path)) ?? fetch(request);
}

// A photo from another app: it is put where the page finds it.
async function share(request) {
  const photo = (await request.formData()).get("photo");
  if (photo instanceof File) {
    const headers = { "Content-Type": photo.type, "X-Name": encodeURIComponent(photo.name) };
    await (await caches.open(NAME)).put("shared-photo", new Response(photo, { headers }));
  }
  return Response.redirect(`${place}?shared`, 303);
}
