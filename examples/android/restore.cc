// restore PACKAGE IN.ppm OUT.ppm [SEED]
//
// Restores a photo with a LiteRT package of parts (python -m export --format tflite --layout parts): what export.run
// does, with LiteRT's C API alone. See docs/android.md.

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "graph.h"
#include "json.h"
#include "manifest.h"
#include "noise.h"
#include "image_file.h"

namespace {

constexpr size_t kMostBytes = 1 << 24;  // of a manifest

// Throws std::runtime_error for a package that this program cannot run.
Json read_manifest(const std::string& package) {
  const std::string path = package + "/manifest.json";
  std::ifstream file;
  if (std::filesystem::is_regular_file(path)) file.open(path, std::ios::binary);  // a pipe would block
  if (!file.is_open()) throw std::runtime_error(path + ": cannot be read; make a package with python -m export");
  std::string source(kMostBytes + 1, '\0');
  file.read(source.data(), std::streamsize(source.size()));
  source.resize(size_t(file.gcount()));
  Json manifest;
  try {
    if (source.size() > kMostBytes) throw std::runtime_error("it is too large");
    manifest = JsonReader::read(source);
    Manifest::check(manifest);
  } catch (const std::exception& error) {
    throw std::runtime_error(path + ": " + error.what() + "; export again");
  }
  if (manifest["format"].text != "tflite" || manifest["graphs"].find("sampler"))
    throw std::runtime_error(path + ": no LiteRT package of parts; export with --format tflite --layout parts");
  if (manifest["inputs"].find("ids") || manifest["inputs"]["condition"]["shape"].items.at(3).number != 3)
    throw std::runtime_error(path + ": wants a prompt or a mask, and this program knows neither; take export.run");
  Manifest::check_files(package, manifest);
  return manifest;
}

std::vector<float> floats(const Json& list) {
  std::vector<float> made;
  for (const Json& item : list.items) made.push_back(float(item.number));
  return made;
}

uint64_t read_seed(const char* text) {
  char* end;
  errno = 0;
  const long long seed = std::strtoll(text, &end, 10);
  if (end == text || *end || errno || seed < 0)
    throw std::runtime_error("SEED is " + std::string(text) + ": it must be a whole number from 0 to 2^63 - 1");
  return uint64_t(seed);
}

// Adds what a part made to the pool, in place of what was there by the same names.
void put(Tensors& pool, Tensors made) {
  made.merge(pool);
  pool = std::move(made);
}

// The photo is of the package's size.
Image restore(const std::string& package, const Json& manifest, const Image& photo, uint64_t seed) {
  const Json& graphs = manifest["graphs"];
  const Environment environment = make_environment();
  const auto load = [&](const char* name) { return Graph(environment, package + "/" + graphs[name]["file"].text); };

  // What one part gives, others take by its name. They are loaded one after the other: memory is that of the largest.
  Tensors pool{{"condition", photo.numbers}};
  if (graphs.find("encoder")) put(pool, load("encoder")(pool));
  {
    std::vector<Graph> halves;  // of a step that is too large for one file
    for (const char* name : {"step", "step_1", "step_2"})
      if (graphs.find(name)) halves.push_back(load(name));
    size_t count = 1;
    for (const Json& side : manifest["inputs"]["noise"]["shape"].items) count *= size_t(side.number);
    pool["z"] = gaussian_noise(seed, count);
    for (const Json& now : manifest["schedule"].items) {
      pool["time"] = floats(now["time"]);
      pool["scales"] = {float(now["a"].number), float(now["b"].number)};
      for (Graph& half : halves) put(pool, half(pool));
      pool["z"] = get(pool, "z_next");
    }
  }
  return {photo.height, photo.width, get(load("decoder")(pool), "image")};
}

void run(const std::string& package, const std::string& in, const std::string& out, uint64_t seed) {
  const Json manifest = read_manifest(package);
  const Image photo = read_ppm(in);
  const size_t height = manifest["image_size"].items.at(0).number, width = manifest["image_size"].items.at(1).number;
  if (photo.height != height || photo.width != width)
    throw std::runtime_error(in + ": " + std::to_string(photo.width) + "x" + std::to_string(photo.height) +
                             ", but the package was made for " + std::to_string(width) + "x" + std::to_string(height) +
                             "; scale or crop it");
  write_ppm(out, restore(package, manifest, photo, seed));
}

}  // namespace

int main(int count, char** arguments) {
  try {
    if (count < 4 || count > 5) throw std::runtime_error("usage: restore PACKAGE IN.ppm OUT.ppm [SEED]");
    run(arguments[1], arguments[2], arguments[3], count == 5 ? read_seed(arguments[4]) : 0);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 2;
  }
}
