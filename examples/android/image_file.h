// Images as binary PPM files (P6, 8 bits a color), which every image program writes and nobody needs a library for.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

// float32 [height, width, 3], RGB, in [0, 1].
struct Image {
  size_t height = 0, width = 0;
  std::vector<float> numbers;
};

// Throws std::runtime_error for a file that is missing or of another kind.
inline Image read_ppm(const std::string& path) {
  std::ifstream file;
  if (std::filesystem::is_regular_file(path)) file.open(path, std::ios::binary);  // a pipe would block
  if (!file.is_open()) throw std::runtime_error(path + ": cannot be read");
  const auto word = [&] {
    std::string read;
    while (file >> read && read[0] == '#') file.ignore(1 << 20, '\n');
    return read;
  };
  const std::string kind = word();
  const size_t width = std::strtoul(word().c_str(), nullptr, 10), height = std::strtoul(word().c_str(), nullptr, 10);
  if (kind != "P6" || word() != "255" || !width || !height || width > 65535 || height > 65535)
    throw std::runtime_error(path + ": no binary PPM of 8 bits a color; convert it into one");
  file.ignore(1);
  const size_t begin = size_t(file.tellg()), count = 3 * width * height;
  if (std::filesystem::file_size(path) < begin + count)
    throw std::runtime_error(path + ": ends too early; copy it again");
  std::string bytes(count, '\0');
  if (!file.read(bytes.data(), bytes.size())) throw std::runtime_error(path + ": ends too early; copy it again");
  Image image{height, width, {}};
  for (const unsigned char byte : bytes) image.numbers.push_back(byte / 255.0f);
  return image;
}

// The file is there as a whole or not at all. Throws std::runtime_error where it cannot be written.
inline void write_ppm(const std::string& path, const Image& image) {
  const std::string partial = path + ".partial";
  std::string bytes;
  for (const float number : image.numbers)
    bytes.push_back(char(std::lrint(255.0f * std::clamp(number, 0.0f, 1.0f))));
  std::ofstream file(partial, std::ios::binary);
  file << "P6\n" << image.width << ' ' << image.height << "\n255\n" << bytes;
  file.close();
  if (!file || std::rename(partial.c_str(), path.c_str()) != 0) {
    std::remove(partial.c_str());
    throw std::runtime_error(path + ": cannot be written");
  }
}
