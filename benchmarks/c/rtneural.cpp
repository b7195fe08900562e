/* Nanoseconds a prediction in RTNeural (https://github.com/jatinchowdhury18/RTNeural), calls back to back.

   g++ -std=c++17 -O3 -march=native -ffast-math -DNDEBUG -DRTNEURAL_USE_XSIMD=1 -DRTNEURAL_DEFAULT_ALIGNMENT=64 \
       -I RTNeural -I xsimd/include rtneural.cpp -o rtneural && taskset -c 0 ./rtneural

   Compile-time models, float, weights that stay the same. The backends are XSIMD, EIGEN (alignment 32, -I eigen) and
   STL. XSIMD reads past its weights where the inputs are no multiple of the vectors, as in 20-64-64-1: wrong values,
   the time stands. Prints medians of nine blocks. */
#include <RTNeural/RTNeural.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

using namespace RTNeural;

static std::mt19937 rng(0);
static std::normal_distribution<float> normal;

static double now()
{
	return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

template <typename Layer>
static void fill(Layer& layer, int inputs, int outputs)
{
	std::vector<std::vector<float>> weights(outputs, std::vector<float>(inputs));
	std::vector<float> bias(outputs);
	for (auto& row : weights)
		for (auto& w : row) w = normal(rng) / std::sqrt((float)inputs);
	for (auto& b : bias) b = normal(rng);
	layer.setWeights(weights);
	layer.setBias(bias.data());
}

template <typename Model>
static void print_time(const char* name, Model& model)
{
	const int calls = 200000;
	alignas(64) float x[64][64];
	for (auto& row : x)
		for (auto& v : row) v = normal(rng);
	std::vector<double> taken;
	float total = 0;  // used, or the compiler would leave the calls out
	for (int block = 0; block < 9; ++block) {
		double begin = now();
		for (int i = 0; i < calls; ++i) total += model.forward(x[i & 63]);
		taken.push_back((now() - begin) / calls * 1e9);
	}
	std::sort(taken.begin(), taken.end());
	printf("%-16s %7.2f ns   (sum of outputs %g)\n", name, taken[4], total);
}

template <int N>
static void dense(const char* name)
{
	ModelT<float, N, N, DenseT<float, N, N>> model;
	fill(model.template get<0>(), N, N);
	print_time(name, model);
}

template <int In, int A, int B, int Out, typename First, typename Second>
static void network(const char* name)
{
	ModelT<float, In, Out, DenseT<float, In, A>, First, DenseT<float, A, B>, Second, DenseT<float, B, Out>> model;
	fill(model.template get<0>(), In, A);
	fill(model.template get<2>(), A, B);
	fill(model.template get<4>(), B, Out);
	print_time(name, model);
}

int main()
{
	dense<8>("8-8");
	dense<16>("16-16");
	dense<32>("32-32");
	dense<64>("64-64");
	network<20, 64, 64, 1, TanhActivationT<float, 64>, TanhActivationT<float, 64>>("20-64-64-1 tanh");
	network<20, 64, 64, 1, ReLuActivationT<float, 64>, ReLuActivationT<float, 64>>("20-64-64-1 relu");
	network<4, 32, 16, 4, TanhActivationT<float, 32>, TanhActivationT<float, 16>>("4-32-16-4 tanh");
}
