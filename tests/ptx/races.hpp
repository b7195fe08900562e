// Races: accesses to one word, at least one of them a write, that nothing puts in order. FASTNN_PTX_RACES=1 asks for
// this check.
#pragma once

#include <cstdint>
#include <string>

namespace ptx {

struct Warp;
struct Instruction;

extern const bool CHECK_RACES;

struct Access {
    uint32_t block;
    uint32_t thread;
    uint32_t interval;       // of the block, between barriers; 0: there was no access
    uint32_t warp_interval;  // between barriers of its warp
    uint32_t instruction;
};

// What is known of a word of four bytes, the unit: threads that share a word's bytes count as racing for it.
struct History {
    Access write{};
    Access read{};  // the last one; before it, since the last barrier:
    bool read_by_lanes = false;   // others of the same warp
    bool read_by_warps = false;   // others of the same block
    bool read_by_blocks = false;  // others of the launch
};

void forget_global_accesses();

// ``place`` is an address, or counted from where the block's shared memory begins. In global memory several blocks may
// write the same value: whoever comes last, and whoever reads, that is what there is.
void note_shared(const Warp& warp, const Instruction& instruction, int lane, bool write, uint64_t place);
void note_global(const Warp& warp, const Instruction& instruction, int lane, bool write, bool same, uint64_t place);

}  // namespace ptx
