#include "races.hpp"

#include <cstdio>
#include <cstdlib>
#include <unordered_map>

#include "machine.hpp"

namespace ptx {

const bool CHECK_RACES = std::getenv("FASTNN_PTX_RACES") != nullptr;

namespace {

std::unordered_map<uint64_t, History> global_accesses;  // of one launch, by word

bool is_same_interval(const Access& before, const Access& now) {
    return before.interval == now.interval && before.block == now.block;
}

bool is_same_warp(const Access& before, const Access& now) {
    return before.block == now.block && before.thread / LANES == now.thread / LANES;
}

// Lanes of a warp are in order where one of its barriers lies between them, and where they do one instruction together.
bool is_ordered(const Access& before, const Access& now) {
    if (!before.interval) return true;
    if (before.block != now.block) return false;
    if (before.interval != now.interval || before.thread == now.thread) return true;
    if (!is_same_warp(before, now)) return false;
    return before.warp_interval != now.warp_interval || before.instruction == now.instruction;
}

bool reads_are_ordered(const History& known, const Access& now) {
    if (known.read_by_blocks) return false;
    if (is_same_interval(known.read, now) && known.read_by_warps) return false;
    if (!is_ordered(known.read, now)) return false;
    return !(known.read_by_lanes && is_same_interval(known.read, now) && known.read.warp_interval == now.warp_interval);
}

void add_read(History& known, const Access& now) {
    const Access before = known.read;
    if (before.interval && before.block != now.block) known.read_by_blocks = true;
    if (!is_same_interval(before, now)) {
        known.read_by_warps = known.read_by_lanes = false;
    } else if (!is_same_warp(before, now)) {
        known.read_by_warps = true;
    } else if (before.warp_interval != now.warp_interval) {
        known.read_by_lanes = false;
    } else if (before.thread != now.thread) {
        known.read_by_lanes = true;
    }
    known.read = now;
}

std::string described(const char* verb, const Access& access) {
    const std::string thread = std::to_string(access.thread);
    return std::string(verb) + " by thread " + thread + " of block " + std::to_string(access.block);
}

void note(const Warp& warp, const Instruction& instruction, int lane, bool write, bool harmless, const char* memory,
          uint64_t place, History& known) {
    const Block& block = *warp.block;
    const Access now{block.number, warp.thread(lane), block.interval, warp.interval, warp.current};
    const bool write_in_order = is_ordered(known.write, now);
    if (!harmless && (!write_in_order || (write && !reads_are_ordered(known, now)))) {
        const Access& before = write_in_order ? known.read : known.write;
        char where[40];
        std::snprintf(where, sizeof where, "%s memory at %#llx: ", memory, static_cast<unsigned long long>(place));
        report(warp, instruction,
               std::string("race in ") + where + described(write ? "write" : "read", now) + " after " +
                   described(write_in_order ? "read" : "write", before) + ", \"" +
                   block.kernel->code[before.instruction].text + "\"");
    }
    if (write) known.write = now;
    else add_read(known, now);
}

}  // namespace

void forget_global_accesses() {
    global_accesses.clear();
}

void note_shared(const Warp& warp, const Instruction& instruction, int lane, bool write, uint64_t place) {
    note(warp, instruction, lane, write, false, "shared", place, warp.block->shared_history[place / 4]);
}

void note_global(const Warp& warp, const Instruction& instruction, int lane, bool write, bool same, uint64_t place) {
    note(warp, instruction, lane, write, same, "global", place, global_accesses[place / 4]);
}

}  // namespace ptx
