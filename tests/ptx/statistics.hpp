// What a launch cost, for those who optimise without a GPU: one line of JSON for each, in the file that
// FASTNN_PTX_STATISTICS names.
#pragma once

#include <array>

#include "machine.hpp"

namespace ptx {

struct Statistics {
    static const char* const PATH;  // or null

    explicit Statistics(const Kernel& of) : kernel(&of), instructions(PATH ? of.code.size() : 0) {}
    void count(const Instruction& instruction, Mask active);
    void count_sectors(const std::array<char*, LANES>& places, Mask active, size_t size, bool write);
    void count_wavefronts(const std::array<char*, LANES>& places, Mask active, size_t size);
    void write(const Block& block) const;

    const Kernel* kernel;
    std::vector<uint64_t> instructions;  // times that a warp did each
    uint64_t lanes = 0;                  // that took part, over all of them
    std::array<uint64_t, 2> requests{};  // of global memory: reads, writes
    std::array<uint64_t, 2> sectors{};   // of 32 bytes, that they touch
    uint64_t shared_requests = 0;        // of 128 bytes at most
    uint64_t shared_wavefronts = 0;      // as many as requests, if no two words lie in one bank
};

}  // namespace ptx
