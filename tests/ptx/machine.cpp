#include "machine.hpp"

#include <cstdio>
#include <cstring>
#include <set>

#include "operations.hpp"
#include "statistics.hpp"

namespace ptx {
namespace {

int faults = 0;  // of the launch that runs

constexpr size_t aligned(size_t size, size_t alignment) {
    return (size + alignment - 1) / alignment * alignment;
}

[[noreturn]] void refuse(const Kernel& kernel, const char* what) {
    std::fprintf(stderr, "PTX interpreter: %s, for %s\n", what, kernel.name.c_str());
    throw Fault(what);
}

// Lanes whose predicate lets them.
Mask allowed(const Warp& warp, const Instruction& instruction, Mask active) {
    if (instruction.predicate < 0) return active;
    const uint64_t* values = warp.lanes(instruction.predicate);
    Mask set = 0;
    for (int lane = 0; lane < LANES; lane++) set |= Mask(values[lane] & 1) << lane;
    return active & (instruction.negated ? ~set : set);
}

void branch(Warp& warp, const Instruction& instruction, Mask active) {
    for_each_lane(active, [&](int lane) {
        uint32_t way = 0;
        if (instruction.flow == Flow::BRANCH_INDEXED) way = get<uint32_t>(warp, instruction.operands[0], lane);
        if (way >= instruction.targets.size()) stop(warp, instruction, "there is no such branch");
        warp.pc[lane] = instruction.targets[way];
    });
}

void meet_in_warp(Warp& warp, const Instruction& instruction, Mask active) {
    for_each_lane(active, [&](int lane) {
        const Mask members = get<Mask>(warp, instruction.operands[0], lane);
        if (members & warp.alive & ~active) report(warp, instruction, "lanes of the mask are elsewhere");
    });
    warp.interval++;
}

// One instruction, by the lanes that are at it.
void step(Warp& warp, uint32_t pc, Mask here) {
    const Instruction& instruction = warp.block->kernel->code[pc];
    warp.current = pc;
    if (warp.block->statistics) warp.block->statistics->count(instruction, here);
    const Mask active = allowed(warp, instruction, here);
    for_each_lane(here, [&](int lane) { warp.pc[lane] = pc + 1; });
    if (!active) return;
    switch (instruction.flow) {
        case Flow::NEXT: return (*instruction.operation)(warp, instruction, active);
        case Flow::BRANCH:
        case Flow::BRANCH_INDEXED: return branch(warp, instruction, active);
        case Flow::EXIT: warp.alive &= ~active; return;
        case Flow::BARRIER: warp.waiting |= active; return;
        case Flow::WARP_BARRIER: return meet_in_warp(warp, instruction, active);
        case Flow::TRAP: stop(warp, instruction, "trap");
        case Flow::CALL: stop(warp, instruction, "calls of functions are not interpreted");
    }
}

// Until all lanes wait or have returned. Lanes that are furthest behind go first: so those that took a longer way come
// back to the others.
void run_warp(Warp& warp) {
    while (const Mask ready = warp.alive & ~warp.waiting) {
        uint32_t pc = ~0u;
        for_each_lane(ready, [&](int lane) { pc = std::min(pc, warp.pc[lane]); });
        Mask here = 0;
        for_each_lane(ready, [&](int lane) { here |= Mask(warp.pc[lane] == pc) << lane; });
        step(warp, pc, here);
    }
}

// All threads that are left wait: at one barrier, which lets them go on.
void pass_barrier(Block& block, std::vector<Warp>& warps) {
    const Warp* first = nullptr;
    uint32_t barrier = 0, alive = 0;
    for (Warp& warp : warps) {
        for_each_lane(warp.alive, [&](int lane) {
            alive++;
            if (!first) {
                first = &warp;
                barrier = warp.pc[lane] - 1;
            } else if (warp.pc[lane] - 1 != barrier) {
                report(*first, block.kernel->code[barrier], "barrier: other threads wait at another one");
            }
        });
        warp.waiting = 0;
        warp.interval++;
    }
    if (alive < block.n_threads) report(*first, block.kernel->code[barrier], "barrier: some threads have returned");
    block.interval++;
}

void begin_warp(Warp& warp, Block& block, uint32_t number) {
    warp.block = &block;
    warp.number = number;
    warp.interval = 1;
    warp.alive = warp.waiting = 0;
    warp.pc.fill(0);
    if (block.number == 0) {
        // Values that nobody has set are to be seen in what is made of them.
        std::fill(warp.registers.begin(), warp.registers.end(), 0xdeadbeefdeadbeef);
        for (const auto& [reg, value] : block.kernel->constants) std::fill_n(warp.lanes(reg), LANES, value);
    }
    for (int lane = 0; lane < LANES; lane++) {
        const uint32_t thread = warp.thread(lane);
        const auto [x, y, z] = block.threads;
        if (thread < block.n_threads) warp.alive |= Mask(1) << lane;
        put(warp, TID_X, lane, thread % x);
        put(warp, TID_Y, lane, thread / x % y);
        put(warp, TID_Z, lane, thread / x / y);
        for (int k = 0; k < 3; k++) {
            put(warp, NTID_X + k, lane, block.threads[k]);
            put(warp, CTAID_X + k, lane, block.place[k]);
            put(warp, NCTAID_X + k, lane, block.grid[k]);
        }
        put(warp, LANEID, lane, uint32_t(lane));
        put(warp, WARPID, lane, number);
        put(warp, DYNAMIC_SMEM_SIZE, lane, uint32_t(block.dynamic_shared));
        put(warp, DYNAMIC_SHARED, lane, block.shared_bytes - block.dynamic_shared);
    }
}

void run_block(Block& block, std::vector<Warp>& warps) {
    // All ones: NaN, if it is read as a number.
    std::memset(block.shared_storage.data(), 0xff, block.shared_storage.size());
    std::memset(block.local.data(), 0xff, block.local.size());
    std::fill(block.shared_history.begin(), block.shared_history.end(), History());
    block.interval = 1;
    const size_t n = warps.size();
    for (size_t k = 0; k < n; k++) begin_warp(warps[k], block, k);
    static uint32_t turn = 0;
    for (bool waiting = true; waiting;) {
        turn = turn * 1664525 + 1013904223;  // another warp begins each time: no order is to be relied on
        waiting = false;
        for (size_t k = 0; k < n; k++) {
            Warp& warp = warps[(turn + k) % n];
            run_warp(warp);
            waiting = waiting || warp.alive;
        }
        if (waiting) pass_barrier(block, warps);
    }
}

}  // namespace

void report(const Warp& warp, const Instruction& instruction, const std::string& what) {
    static std::set<const Instruction*> seen;
    const bool is_new = seen.insert(&instruction).second;
    if (faults++ && !is_new) return;
    const Block& block = *warp.block;
    std::fprintf(stderr, "PTX interpreter: %s; block %u, warp %u, \"%s\" of %s\n", what.c_str(), block.number,
                 warp.number, instruction.text.c_str(), block.kernel->name.c_str());
}

void stop(const Warp& warp, const Instruction& instruction, const std::string& what) {
    report(warp, instruction, what);
    throw Fault(what);
}

const Table& operations() {
    static const Table table = [] {
        Table made;
        add_integers(made);
        add_floats(made);
        add_conversions(made);
        add_warps(made);
        add_memory(made);
        return made;
    }();
    return table;
}

void launch(const Kernel& kernel, std::array<uint32_t, 3> grid, std::array<uint32_t, 3> threads, size_t dynamic_shared,
            const char* parameters) {
    Block block{};
    block.kernel = &kernel;
    block.parameters = parameters;
    block.dynamic_shared = dynamic_shared;
    block.grid = grid;
    block.threads = threads;
    block.n_threads = threads[0] * threads[1] * threads[2];
    if (block.n_threads > uint32_t(kernel.max_threads)) refuse(kernel, "more threads than the launch bounds allow");
    if (dynamic_shared > kernel.max_dynamic_shared) refuse(kernel, "more shared memory than the kernel may have");
    block.shared_bytes = aligned(kernel.static_shared, 16) + dynamic_shared;
    block.shared_storage.resize(block.shared_bytes + 8192);
    block.shared = reinterpret_cast<char*>(aligned(reinterpret_cast<size_t>(block.shared_storage.data()), 256));
    std::vector<Warp> warps(aligned(block.n_threads, LANES) / LANES);
    for (Warp& warp : warps) warp.registers.resize(size_t(kernel.n_registers) * LANES);
    block.local.resize(kernel.local_bytes * LANES * warps.size());
    if (CHECK_RACES) block.shared_history.resize(aligned(block.shared_bytes, 4) / 4);
    forget_global_accesses();
    Statistics statistics(kernel);
    block.statistics = Statistics::PATH ? &statistics : nullptr;
    faults = 0;
    for (uint32_t z = 0; z < grid[2]; z++) {
        for (uint32_t y = 0; y < grid[1]; y++) {
            for (uint32_t x = 0; x < grid[0]; x++) {
                block.place = {x, y, z};
                run_block(block, warps);
                block.number++;
            }
        }
    }
    if (block.statistics) statistics.write(block);
    if (faults) throw Fault("faults were found");
}

}  // namespace ptx
