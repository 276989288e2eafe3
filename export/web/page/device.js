// What computes: the graphics processor where the browser gives access to one, or the processor.

const wanted = new URLSearchParams(globalThis.location?.search).get("device"); // "gpu" or "cpu" in the page's address

/**
 * The devices to try, the first one first: ["gpu", "cpu"] or ["cpu"].
 *
 * @param has whether the site has the runtime for graphics processors
 */
export async function devices(has, { gpu } = navigator) {
  if (!has || wanted === "cpu" || !gpu) return ["cpu"];
  const adapter = await gpu.requestAdapter({ powerPreference: "high-performance" }).catch(() => null);
  const software = adapter?.info?.isFallbackAdapter ?? adapter?.isFallbackAdapter; // slower than the processor itself
  return adapter && (!software || wanted === "gpu") ? ["gpu", "cpu"] : ["cpu"];
}

/** A device in words. */
export const nameOf = (device) => (device === "gpu" ? "graphics processor" : "processor");
