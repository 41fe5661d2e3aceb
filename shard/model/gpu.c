#include "shard/model/gpu.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

device_choice device_choice_of(const char *word) {
    return !strcmp(word, "cuda") ? DEVICE_CUDA : !strcmp(word, "cpu") ? DEVICE_CPU : DEVICE_AUTO;
}

status gpu_wanted(const gpu_provider *gpu, device_choice choice, bool *out) {
    *out = false;
    if (choice == DEVICE_CPU) return ST_OK;
    if (choice == DEVICE_CUDA && !gpu)
        return fail(ST_UNSUPPORTED, "--device cuda: this gemmad-shard was built where no CUDA toolkit is; "
                                    "--device cpu works");
    *out = gpu && gpu->count() > 0;
    if (choice == DEVICE_CUDA && !*out)
        return fail(ST_NOT_FOUND, "--device cuda: there is no GPU that this process can use (no driver, none "
                                  "visible, or one that is too old); --device cpu works");
    return ST_OK;
}

status gpu_is_own(comm *ranks, const gpu_provider *gpu, bool *out) {
    static const uint8_t unknown[sizeof((gpu_sight *)0)->first];
    uint32_t n = comm_size(ranks), me = comm_rank(ranks);
    gpu_sight mine, *all = memory_alloc_array(n, sizeof *all);
    memset(&mine, 0, sizeof mine);
    if (gpu) mine = gpu->look();
    status st = comm_all_gather(ranks, &mine, sizeof mine, all);
    *out = mine.visible == 1 && memcmp(mine.first, unknown, sizeof unknown) != 0;
    for (uint32_t r = 0; st == ST_OK && r < n; r++)
        if (r != me && memcmp(all[r].first, mine.first, sizeof unknown) == 0) *out = false;
    free(all);
    return st;
}

static void at_least(uint32_t *x, uint32_t least) {
    if (*x < least) *x = least;
}

static void matrix(cuda_backend_options *o, uint64_t rows, uint32_t cols) {
    at_least(&o->columns_max, cols);
    if (rows * cols > o->matrix_max) o->matrix_max = rows * cols;
}

void gpu_options_make(cuda_backend_options *out, const model_config *c, const layout *l,
                      const gpu_sizes *sizes) {
    uint32_t heads = range_count(l->heads);
    *out = (cuda_backend_options){.rows_max = sizes->rows_max,
                                  .slots = sizes->slots,
                                  .context = sizes->context,
                                  .hidden = c->hidden,
                                  .heads_max = heads,
                                  .experts = c->experts,
                                  .active_max = c->experts_active,
                                  .expert_width = range_count(l->expert_width),
                                  .own_experts = range_count(l->experts),
                                  .scan_rows_max = sizes->logit_rows,
                                  .share = range_count(l->vocab),
                                  .batch_invariant = sizes->batch_invariant,
                                  .no_recording = sizes->no_recording};
    for (uint32_t i = 0; i < c->layers; i++) {
        const layer_config *lc = &c->layer[i];
        uint32_t kv = range_count(l->layer[i].kv_heads), mlp = range_count(l->layer[i].mlp);
        at_least(&out->head_dim_max, lc->head_dim);
        at_least(&out->kv_heads_max, kv);
        at_least(&out->heads_per_kv_max, c->heads / lc->kv_heads);
        at_least(&out->window, lc->window);
        matrix(out, (uint64_t)heads * lc->head_dim, c->hidden);
        matrix(out, c->hidden, heads * lc->head_dim);
        matrix(out, mlp, c->hidden);
        matrix(out, c->hidden, mlp);
    }
    if (c->ple_width == 0) return;
    matrix(out, (uint64_t)c->layers * c->ple_width, c->hidden);
    matrix(out, c->hidden, c->ple_width);
}
