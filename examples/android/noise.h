// The noise of a seed, as docs/noise.md specifies it.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <vector>

using Words = std::array<uint32_t, 4>;

// Philox4x32-10: four words of a counter and two of a key -> four random words.
inline Words philox(Words c, std::array<uint32_t, 2> k) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t p = uint64_t{0xD2511F53} * c[0], q = uint64_t{0xCD9E8D57} * c[2];
    c = {uint32_t(q >> 32) ^ c[1] ^ k[0], uint32_t(q), uint32_t(p >> 32) ^ c[3] ^ k[1], uint32_t(p)};
    k = {k[0] + 0x9E3779B9, k[1] + 0xBB67AE85};
  }
  return c;
}

// `count` standard normal numbers, those that a image starts from (stream 0).
inline std::vector<float> gaussian_noise(uint64_t seed, size_t count) {
  std::vector<float> numbers;
  numbers.reserve(count + 3);
  for (uint64_t block = 0; numbers.size() < count; ++block) {
    const Words words = philox({uint32_t(block), uint32_t(block >> 32), 0, 0}, {uint32_t(seed), uint32_t(seed >> 32)});
    for (int pair : {0, 2}) {
      const double u = (words[pair] + 0.5) / 4294967296.0, v = (words[pair + 1] + 0.5) / 4294967296.0;
      const double radius = std::sqrt(-2.0 * std::log(u)), angle = 2.0 * 3.14159265358979323846 * v;
      numbers.push_back(float(radius * std::cos(angle)));
      numbers.push_back(float(radius * std::sin(angle)));
    }
  }
  numbers.resize(count);
  return numbers;
}
