#include "statistics.hpp"

#include <cstdlib>
#include <fstream>
#include <map>
#include <set>

#include "operations.hpp"

namespace ptx {

const char* const Statistics::PATH = std::getenv("FASTNN_PTX_STATISTICS");

void Statistics::count(const Instruction& instruction, Mask active) {
    instructions[&instruction - kernel->code.data()]++;
    lanes += __builtin_popcount(active);
}

void Statistics::count_sectors(const std::array<char*, LANES>& places, Mask active, size_t size, bool write) {
    std::set<uint64_t> found;
    for_each_lane(active, [&](int lane) {
        const uint64_t first = reinterpret_cast<uint64_t>(places[lane]);
        for (uint64_t sector = first / 32; sector <= (first + size - 1) / 32; sector++) found.insert(sector);
    });
    requests[write]++;
    sectors[write] += found.size();
}

// Lanes go in groups that ask for 128 bytes at most; a bank gives one word of 4 bytes in each wavefront.
void Statistics::count_wavefronts(const std::array<char*, LANES>& places, Mask active, size_t size) {
    const int group = size <= 4 ? 32 : size == 8 ? 16 : 8;
    for (int begin = 0; begin < LANES; begin += group) {
        std::array<std::set<uint64_t>, 32> banks;
        size_t most = 0;
        for (int lane = begin; lane < begin + group; lane++) {
            if (!(active >> lane & 1)) continue;
            const uint64_t first = reinterpret_cast<uint64_t>(places[lane]);
            for (uint64_t word = first / 4; word <= (first + size - 1) / 4; word++) {
                banks[word % 32].insert(word);
                most = std::max(most, banks[word % 32].size());
            }
        }
        shared_requests += most > 0;
        shared_wavefronts += most;
    }
}

void Statistics::write(const Block& block) const {
    std::map<std::string, uint64_t> opcodes;
    for (size_t k = 0; k < instructions.size(); k++) {
        const std::string& text = kernel->code[k].text;
        const size_t begin = text[0] == '@' ? text.find(' ') + 1 : 0;  // behind a predicate
        if (instructions[k]) opcodes[text.substr(begin, text.find_first_of(" [{", begin) - begin)] += instructions[k];
    }
    std::ofstream file(PATH, std::ios::app);
    file << "{\"kernel\": \"" << kernel->name << "\", \"blocks\": " << block.number
         << ", \"threads\": " << block.n_threads << ", \"shared_bytes\": " << block.shared_bytes
         << ", \"lanes\": " << lanes << ", \"global_loads\": " << requests[0] << ", \"global_stores\": " << requests[1]
         << ", \"sectors_loaded\": " << sectors[0] << ", \"sectors_stored\": " << sectors[1]
         << ", \"shared_requests\": " << shared_requests << ", \"shared_wavefronts\": " << shared_wavefronts
         << ", \"instructions\": {";
    const char* separator = "";
    for (const auto& [opcode, count] : opcodes) {
        file << separator << '"' << opcode << "\": " << count;
        separator = ", ";
    }
    file << "}}\n";
    if (!file) throw Fault(std::string("cannot write ") + PATH);
}

}  // namespace ptx
