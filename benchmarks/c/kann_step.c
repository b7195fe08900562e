/* Microseconds of a training step in KANN (https://github.com/attractivechaos/kann), the fastest C library we know.

   cc -O3 -march=native -DHAVE_CBLAS kann_step.c kann.c kautodiff.c -o kann_step -lopenblas -lm
   OPENBLAS_NUM_THREADS=1 taskset -c 0 ./kann_step 20-64-64-1 32 mse
   OPENBLAS_NUM_THREADS=1 taskset -c 0 ./kann_step 784-128-10 32 cross_entropy

   ReLU layers, one batch that stays in memory, KANN's RMSprop (it has no Adam). Prints the median of nine blocks. */
#define _POSIX_C_SOURCE 200809L
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kann.h"

#define BLOCKS 9
#define MOST_LAYERS 16

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

int main(int argc, char **argv)
{
	if (argc != 4) {
		fprintf(stderr, "usage: kann_step WIDTHS BATCH mse|cross_entropy\n");
		return 2;
	}
	int widths[MOST_LAYERS] = {0}, n = 0, batch = atoi(argv[2]), classes = !strcmp(argv[3], "cross_entropy");
	for (char *part = strtok(argv[1], "-"); part && n < MOST_LAYERS; part = strtok(NULL, "-")) widths[n++] = atoi(part);
	kad_node_t *node = kann_layer_input(widths[0]);
	for (int i = 1; i < n - 1; ++i) node = kad_relu(kann_layer_dense(node, widths[i]));
	kann_t *net = kann_new(kann_layer_cost(node, widths[n - 1], classes ? KANN_C_CEM : KANN_C_MSE), 0);
	int n_in = widths[0], n_out = widths[n - 1], size = kann_size_var(net);
	float *x = malloc(sizeof(float) * batch * n_in), *y = calloc((size_t)batch * n_out, sizeof(float));
	float *moments = calloc(size, sizeof(float));
	for (int i = 0; i < batch * n_in; ++i) x[i] = (float)kad_drand_normal(0);
	for (int i = 0; i < batch; ++i)
		for (int j = 0; j < n_out; ++j) y[i * n_out + j] = classes ? (j == i % n_out) : (float)kad_drand_normal(0);
	kann_feed_bind(net, KANN_F_IN, 0, &x);
	kann_feed_bind(net, KANN_F_TRUTH, 0, &y);
	kann_set_batch_size(net, batch);
	kann_switch(net, 1);
	double taken[BLOCKS];
	for (int block = -1; block < BLOCKS; ++block) { /* the first one warms up */
		double begin = now();
		int steps = 0;
		while (now() - begin < 0.2) {
			for (int i = 0; i < 10; ++i, ++steps) {
				kann_cost(net, 0, 1);
				kann_RMSprop(size, 0.001f, 0, 0.9f, net->g, net->x, moments);
			}
		}
		if (block >= 0) taken[block] = (now() - begin) / steps * 1e6;
	}
	qsort(taken, BLOCKS, sizeof(double), ascending);
	printf("%.2f\n", taken[BLOCKS / 2]);
	return 0;
}
