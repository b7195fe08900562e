// Warps of 32 lanes that take turns, and blocks, one after the other.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "module.hpp"
#include "races.hpp"

namespace ptx {

struct Statistics;

struct Block {
    const Kernel* kernel;
    const char* parameters;
    size_t dynamic_shared;
    std::array<uint32_t, 3> threads;  // %ntid
    std::array<uint32_t, 3> grid;     // %nctaid
    std::array<uint32_t, 3> place;    // %ctaid
    uint32_t number;                  // the place as one number
    uint32_t n_threads;
    std::vector<char> shared_storage;  // more than a block has, so that what lies behind belongs to nobody
    char* shared;
    size_t shared_bytes;
    std::vector<char> local;  // thread after thread
    uint32_t interval;        // between barriers, counted from 1
    std::vector<History> shared_history;
    Statistics* statistics;  // or none
};

struct Warp {
    Block* block;
    uint32_t number;
    std::vector<uint64_t> registers;  // 32 lanes of each
    std::array<uint32_t, LANES> pc;
    std::array<uint32_t, LANES> carry;  // the flag CC.CF
    Mask alive;
    Mask waiting;       // at a barrier
    uint32_t interval;  // between this warp's barriers and the block's
    uint32_t current;   // the instruction that runs

    uint64_t* lanes(int reg) { return &registers[size_t(reg) * LANES]; }
    const uint64_t* lanes(int reg) const { return &registers[size_t(reg) * LANES]; }
    uint32_t thread(int lane) const { return number * LANES + lane; }
};

// Print what is wrong and where, once for each instruction, and count it: a launch with faults fails at its end.
void report(const Warp& warp, const Instruction& instruction, const std::string& what);
// The same, where nothing can come after it.
[[noreturn]] void stop(const Warp& warp, const Instruction& instruction, const std::string& what);

// Throws Fault if the launch is refused, stops, or had faults, and prints why.
void launch(const Kernel& kernel, std::array<uint32_t, 3> grid, std::array<uint32_t, 3> threads, size_t dynamic_shared,
            const char* parameters);

}  // namespace ptx
