// SHA-256 (FIPS 180-4). Pages that come without encryption have no other, and the browser's own copies what it reads.

const START = [0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19];
const ROUND = constants();

export class Sha256 {
  constructor() {
    this.state = Int32Array.from(START);
    this.words = new Int32Array(64);
    this.block = new Uint8Array(64);
    this.view = new DataView(this.block.buffer);
    this.filled = 0;
    this.total = 0;
  }

  /** Add bytes, Uint8Array. */
  add(bytes) {
    this.total += bytes.length;
    for (let i = 0; i < bytes.length; ) {
      const count = Math.min(64 - this.filled, bytes.length - i);
      this.block.set(bytes.subarray(i, i + count), this.filled);
      this.filled += count;
      i += count;
      if (this.filled === 64) this.mix();
    }
  }

  /** The sum in hexadecimal digits. Nothing can be added after that. */
  digits() {
    const bits = 8 * this.total;
    this.add(Uint8Array.of(0x80));
    if (this.filled > 56) this.add(new Uint8Array(64 - this.filled));
    this.add(new Uint8Array(56 - this.filled));
    this.view.setUint32(56, Math.floor(bits / 2 ** 32));
    this.view.setUint32(60, bits >>> 0);
    this.mix();
    return Array.from(this.state, (word) => (word >>> 0).toString(16).padStart(8, "0")).join("");
  }

  mix() {
    const { words, view, state } = this;
    for (let i = 0; i < 16; i++) words[i] = view.getInt32(4 * i);
    for (let i = 16; i < 64; i++) {
      const early = words[i - 15];
      const late = words[i - 2];
      const first = turned(early, 7) ^ turned(early, 18) ^ (early >>> 3);
      const second = turned(late, 17) ^ turned(late, 19) ^ (late >>> 10);
      words[i] = words[i - 16] + first + words[i - 7] + second;
    }
    let [a, b, c, d, e, f, g, h] = state;
    for (let i = 0; i < 64; i++) {
      const first = h + (turned(e, 6) ^ turned(e, 11) ^ turned(e, 25)) + ((e & f) ^ (~e & g)) + ROUND[i] + words[i];
      const second = (turned(a, 2) ^ turned(a, 13) ^ turned(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
      h = g;
      g = f;
      f = e;
      e = (d + first) | 0;
      d = c;
      c = b;
      b = a;
      a = (first + second) | 0;
    }
    [a, b, c, d, e, f, g, h].forEach((word, i) => (state[i] += word));
    this.filled = 0;
  }
}

function turned(word, by) {
  return (word >>> by) | (word << (32 - by));
}

// The first 32 bits of the fractions of the cube roots of the first 64 primes.
function constants() {
  const primes = [];
  for (let n = 2; primes.length < 64; n++) if (primes.every((prime) => n % prime)) primes.push(n);
  return Int32Array.from(primes, (prime) => Math.floor((Math.cbrt(prime) % 1) * 2 ** 32));
}
