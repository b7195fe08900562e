#include "memory.hpp"

#include <cstdio>

#include "operations.hpp"
#include "statistics.hpp"

namespace ptx {

void GlobalMemory::add(uint64_t address, size_t size) {
    sizes_[address] = size;
    total_ += size;
}

bool GlobalMemory::remove(uint64_t address) {
    const auto found = sizes_.find(address);
    if (found == sizes_.end()) return false;
    total_ -= found->second;
    sizes_.erase(found);
    last_begin_ = 1;
    last_end_ = 0;
    return true;
}

std::pair<uint64_t, size_t> GlobalMemory::find(uint64_t address) const {
    auto found = sizes_.upper_bound(address);
    if (found == sizes_.begin()) return {0, 0};
    --found;
    if (address >= found->first + found->second) return {0, 0};
    return *found;
}

bool GlobalMemory::contains(uint64_t address, size_t size) {
    if (address < last_begin_ || address + size > last_end_) {
        const auto [begin, bytes] = find(address);
        last_begin_ = begin;
        last_end_ = begin + bytes;
    }
    return size == 0 || (address >= last_begin_ && address + size <= last_end_);
}

GlobalMemory& global_memory() {
    static GlobalMemory memory;
    return memory;
}

namespace {

// In shared memory's window of generic addresses, what lies this far behind its end is out of bounds, not global.
constexpr size_t BEHIND_SHARED = 4096;

size_t local_offset(const Warp& warp, int lane) {
    return warp.block->kernel->local_bytes * warp.thread(lane);
}

// What is added to an address of a space to make it generic.
uint64_t window(const Warp& warp, Space space, int lane) {
    const Block& block = *warp.block;
    if (space == Space::SHARED) return reinterpret_cast<uint64_t>(block.shared);
    if (space == Space::LOCAL) return reinterpret_cast<uint64_t>(block.local.data()) + local_offset(warp, lane);
    return 0;
}

Space space_of_generic(const Block& block, uint64_t address) {
    const uint64_t shared = reinterpret_cast<uint64_t>(block.shared);
    const uint64_t local = reinterpret_cast<uint64_t>(block.local.data());
    if (address >= shared && address < shared + block.shared_bytes + BEHIND_SHARED) return Space::SHARED;
    if (address >= local && address < local + block.local.size()) return Space::LOCAL;
    return Space::GLOBAL;
}

// One lane's place in the host's memory; ``space`` becomes that which a generic address lies in.
char* resolved(const Warp& warp, const Instruction& instruction, int lane, size_t size, Space& space) {
    const Block& block = *warp.block;
    uint64_t address = get<uint64_t>(warp, instruction.operands[0], lane) + instruction.offset;
    space = instruction.space;
    if (space == Space::GENERIC) {
        space = space_of_generic(block, address);
        address -= window(warp, space, lane);
    }
    if (space == Space::SHARED || space == Space::PARAM) address &= 0xffffffff;  // a register of 32 bits may hold it
    if (address % size) stop(warp, instruction, "misaligned address");
    char* place = nullptr;
    bool inside = false;
    switch (space) {
        case Space::SHARED:
            inside = address + size <= block.shared_bytes;
            place = block.shared + address;
            break;
        case Space::LOCAL:
            inside = address < block.kernel->local_bytes && address + size <= block.kernel->local_bytes;
            place = reinterpret_cast<char*>(window(warp, space, lane) + address);
            break;
        case Space::PARAM:
            inside = address + size <= block.kernel->parameter_bytes;
            place = const_cast<char*>(block.parameters) + address;
            break;
        default:
            inside = global_memory().contains(address, size);
            place = reinterpret_cast<char*>(address);
    }
    if (!inside) {
        static const char* const names[] = {"generic", "global", "shared", "local", "param"};
        char where[80];
        std::snprintf(where, sizeof where, "%s memory, out of bounds: %#llx, lane %d", names[int(space)],
                      static_cast<unsigned long long>(address), lane);
        stop(warp, instruction, where);
    }
    return place;
}

// Whether a lane would write what lies there.
bool changes_nothing(const Warp& warp, const Instruction& instruction, int lane, const char* place) {
    for (int k = 0; k < instruction.elements; k++) {
        const uint64_t* value = warp.lanes(instruction.operands[1 + k]) + lane;
        if (std::memcmp(place + k * instruction.bytes, value, instruction.bytes)) return false;
    }
    return true;
}

void note(const Warp& warp, const Instruction& instruction, int lane, char* place, Space space, bool write) {
    const size_t size = size_t(instruction.bytes) * instruction.elements;
    if (space == Space::SHARED) {
        for (char* word = place; word < place + size; word += 4)
            note_shared(warp, instruction, lane, write, word - warp.block->shared);
    } else {
        const bool same = write && changes_nothing(warp, instruction, lane, place);
        for (char* word = place; word < place + size; word += 4)
            note_global(warp, instruction, lane, write, same, reinterpret_cast<uint64_t>(word));
    }
}

}  // namespace

std::array<char*, LANES> accessed(const Warp& warp, const Instruction& instruction, Mask active, bool write) {
    std::array<char*, LANES> places{};
    const size_t size = size_t(instruction.bytes) * instruction.elements;
    Space space = instruction.space;
    for_each_lane(active, [&](int lane) {
        places[lane] = resolved(warp, instruction, lane, size, space);
        const bool common = space == Space::SHARED || space == Space::GLOBAL;
        if (CHECK_RACES && common) note(warp, instruction, lane, places[lane], space, write);
    });
    if (Statistics* const statistics = warp.block->statistics) {
        if (space == Space::GLOBAL) statistics->count_sectors(places, active, size, write);
        if (space == Space::SHARED) statistics->count_wavefronts(places, active, size);
    }
    return places;
}

namespace {

void load(Warp& warp, const Instruction& instruction, Mask active) {
    const auto places = accessed(warp, instruction, active, false);
    for_each_lane(active, [&](int lane) {
        for (int k = 0; k < instruction.elements; k++) {
            uint64_t value = 0;
            std::memcpy(&value, places[lane] + k * instruction.bytes, instruction.bytes);
            if (instruction.extend_sign) {
                const int unused = 64 - 8 * instruction.bytes;
                value = uint64_t(int64_t(value << unused) >> unused);
            }
            warp.lanes(instruction.results[k])[lane] = value;
        }
    });
}

void store(Warp& warp, const Instruction& instruction, Mask active) {
    const auto places = accessed(warp, instruction, active, true);
    for_each_lane(active, [&](int lane) {
        for (int k = 0; k < instruction.elements; k++) {
            const uint64_t value = warp.lanes(instruction.operands[1 + k])[lane];
            std::memcpy(places[lane] + k * instruction.bytes, &value, instruction.bytes);
        }
    });
}

// Atomic operations are no races; what they put in order is not known either.
template <class T, class F>
void add_atomic(Table& table, const std::string& name, F f) {
    table["atom." + name] = [f](Warp& warp, const Instruction& instruction, Mask active) {
        for_each_lane(active, [&](int lane) {
            Space space;
            char* const place = resolved(warp, instruction, lane, sizeof(T), space);
            T old;
            std::memcpy(&old, place, sizeof old);
            const T changed = f(old, get<T>(warp, instruction.operands[1], lane));
            std::memcpy(place, &changed, sizeof changed);
            put<T>(warp, instruction.results[0], lane, old);
        });
    };
}

template <class T>
void add_atomic_arithmetic(Table& table, const std::string& type) {
    add_atomic<T>(table, "add." + type, [](T a, T b) { return T(a + b); });
    add_atomic<T>(table, "min." + type, [](T a, T b) { return std::min(a, b); });
    add_atomic<T>(table, "max." + type, [](T a, T b) { return std::max(a, b); });
}

template <class T>
void add_atomic_bits(Table& table, const std::string& type) {
    add_atomic<T>(table, "and." + type, [](T a, T b) { return a & b; });
    add_atomic<T>(table, "or." + type, [](T a, T b) { return a | b; });
    add_atomic<T>(table, "xor." + type, [](T a, T b) { return a ^ b; });
    add_atomic<T>(table, "exch." + type, [](T, T b) { return b; });
}

template <bool TO_GENERIC>
void convert_address(Warp& warp, const Instruction& instruction, Mask active) {
    for_each_lane(active, [&](int lane) {
        const uint64_t base = window(warp, instruction.space, lane);
        const uint64_t address = get<uint64_t>(warp, instruction.operands[0], lane);
        put(warp, instruction.results[0], lane, TO_GENERIC ? address + base : address - base);
    });
}

}  // namespace

void add_memory(Table& table) {
    table["ld"] = load;
    table["st"] = store;
    table["cvta"] = convert_address<true>;
    table["cvta.to"] = convert_address<false>;
    add_atomic_arithmetic<int32_t>(table, "s32");
    add_atomic_arithmetic<uint32_t>(table, "u32");
    add_atomic_arithmetic<int64_t>(table, "s64");
    add_atomic_arithmetic<uint64_t>(table, "u64");
    add_atomic_bits<uint32_t>(table, "b32");
    add_atomic_bits<uint64_t>(table, "b64");
    add_atomic<float>(table, "add.f32", [](float a, float b) { return a + b; });
    add_atomic<double>(table, "add.f64", [](double a, double b) { return a + b; });
    // Memory has one order here, so nothing need be waited for.
    for (const char* fence : {"membar", "membar.gl", "fence.acq_rel", "fence.sc"}) {
        table[fence] = [](Warp&, const Instruction&, Mask) {};
    }
}

}  // namespace ptx
