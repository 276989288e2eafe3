// The noise of a seed, as docs/noise.md specifies it: Philox4x32-10, then Box-Muller.

const LOW = 0xffffffffn;

/** Four words of a counter and two of a key, BigInt below 2^32 -> four random words. */
export function philox([a, b, c, d], [k, l]) {
  for (let round = 0; round < 10; round++) {
    const left = a * 0xd2511f53n;
    const right = c * 0xcd9e8d57n;
    [a, b, c, d] = [(right >> 32n) ^ b ^ k, right & LOW, (left >> 32n) ^ d ^ l, left & LOW];
    k = (k + 0x9e3779b9n) & LOW;
    l = (l + 0xbb67ae85n) & LOW;
  }
  return [a, b, c, d];
}

/** The first `count` standard normal numbers of a seed (BigInt, 0 to 2^63 - 1), Float32Array. */
export function gaussianNoise(seed, count, stream = 0) {
  const noise = new Float32Array(count);
  for (let i = 0; i < count; i += 4) {
    const block = BigInt(i / 4);
    const words = philox([block & LOW, block >> 32n, BigInt(stream), 0n], [seed & LOW, seed >> 32n]);
    const [u, v, s, t] = words.map((word) => (Number(word) + 0.5) / 2 ** 32);
    noise.set([...boxMuller(u, v), ...boxMuller(s, t)].slice(0, count - i), i);
  }
  return noise;
}

function boxMuller(u, v) {
  const radius = Math.sqrt(-2 * Math.log(u));
  const angle = 2 * Math.PI * v;
  return [radius * Math.cos(angle), radius * Math.sin(angle)];
}
