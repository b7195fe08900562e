// Memory that kernels see, and what is checked of every access: its place, its alignment, and races.
#pragma once

#include <array>
#include <cstdint>
#include <map>

#include "module.hpp"

namespace ptx {

// What the driver has given out, and variables of modules; addresses are the host's own.
class GlobalMemory {
  public:
    void add(uint64_t address, size_t size);
    bool remove(uint64_t address);
    bool contains(uint64_t address, size_t size);
    // The allocation that an address lies in: (address, size), or none with size 0.
    std::pair<uint64_t, size_t> find(uint64_t address) const;
    size_t total() const { return total_; }

  private:
    std::map<uint64_t, size_t> sizes_;
    size_t total_ = 0;
    uint64_t last_begin_ = 1;  // of the allocation that was found last: most accesses go there again
    uint64_t last_end_ = 0;
};

GlobalMemory& global_memory();

// Where an instruction's lanes read or write in the host's memory, after all checks.
std::array<char*, LANES> accessed(const Warp& warp, const Instruction& instruction, Mask active, bool write);

}  // namespace ptx
