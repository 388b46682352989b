/* Fused multiply-adds on numbers that stay in registers: what a CPU's arithmetic can do when nothing has to be fetched.
 *
 * CHAINS vectors of VECTOR_BYTES each are multiplied and added to in every round, and none waits for another.
 */
#define EXPORT __attribute__((visibility("default")))
#define LANES (VECTOR_BYTES / (int)sizeof(float))

typedef float Vector __attribute__((vector_size(VECTOR_BYTES)));

/* The sum of all numbers: chain c starts as c. */
EXPORT float multiply_add(long long rounds, float factor, float summand) {
    Vector chains[CHAINS], factors = (Vector){0} + factor, summands = (Vector){0} + summand;
    for (int c = 0; c < CHAINS; c++) chains[c] = (Vector){0} + (float)c;
    for (long long round = 0; round < rounds; round++)
        for (int c = 0; c < CHAINS; c++) chains[c] = chains[c] * factors + summands;
    float sum = 0;
    for (int c = 0; c < CHAINS; c++)
        for (int lane = 0; lane < LANES; lane++) sum += chains[c][lane];
    return sum;
}
