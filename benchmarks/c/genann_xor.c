/* Microseconds of an epoch of four samples on XOR, 2-8-1, in genann (https://github.com/codeplea/genann).

   cc -O3 -march=native genann_xor.c genann.c -o genann_xor -lm && taskset -c 0 ./genann_xor

   Sigmoid layers, one sample a step, doubles: all that genann has. Prints the median of nine blocks. */
#define _POSIX_C_SOURCE 200809L
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "genann.h"

#define BLOCKS 9
#define EPOCHS 200000

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + 1e-9 * t.tv_nsec;
}

static int ascending(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

int main(void)
{
	const double x[4][2] = {{0, 0}, {0, 1}, {1, 0}, {1, 1}}, y[4] = {0, 1, 1, 0};
	genann *net = genann_init(2, 1, 8, 1);
	double taken[BLOCKS];
	for (int block = 0; block < BLOCKS; ++block) {
		double begin = now();
		for (int epoch = 0; epoch < EPOCHS; ++epoch)
			for (int i = 0; i < 4; ++i) genann_train(net, x[i], y + i, 3);
		taken[block] = (now() - begin) / EPOCHS * 1e6;
	}
	qsort(taken, BLOCKS, sizeof(double), ascending);
	printf("%.3f\n", taken[BLOCKS / 2]);
	genann_free(net);
	return 0;
}
