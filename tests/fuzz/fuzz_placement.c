/* A placement file of any bytes: an error, or experts that all have a rank and a place in its list, and that
 * come back from the text that it is printed as. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "cluster/placement.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { LAYERS = 3, EXPERTS = 3, RANKS = 3 };
static const uint8_t is_moe[LAYERS] = {1, 0, 1};
static const int32_t ranks[RANKS] = {1, 2, 4};

static cox_status parse(cox_placement **p, const void *text, size_t n)
{
    return cox_placement_parse(p, text, n, "fuzz", LAYERS, is_moe, EXPERTS, ranks, RANKS);
}

static void check_expert(const cox_placement *p, int32_t layer, int32_t e)
{
    const int32_t *hosts = NULL;
    int32_t n = cox_placement_hosts(p, layer, (cox_expert_id){e}, &hosts);
    if (n != 0 && !is_moe[layer]) abort();
    if ((n < 1 || n > RANKS) && is_moe[layer]) abort();
    for (int32_t r = 0; r < n; r++) {
        cox_local_expert local;
        const cox_expert_id *list = NULL;
        int32_t seat = cox_placement_seat(p, layer, (cox_expert_id){e}, r, &local);
        if (seat < 0 || seat >= RANKS || ranks[seat] != hosts[r] || (r && hosts[r - 1] >= hosts[r])) abort();
        if (local.value < 0 || local.value >= cox_placement_local(p, layer, hosts[r], &list)) abort();
        if (list[local.value].value != e) abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    cox_placement *p = NULL, *again = NULL;
    char *text = NULL, *same = NULL;
    if (parse(&p, data, size) != COX_OK) return 0;
    for (int32_t i = 0; i < LAYERS * EXPERTS; i++) check_expert(p, i / EXPERTS, i % EXPERTS);
    if (cox_placement_print(p, &text) != COX_OK || parse(&again, text, strlen(text)) != COX_OK) abort();
    if (cox_placement_print(again, &same) != COX_OK || strcmp(text, same) != 0) abort();
    free(text);
    free(same);
    cox_placement_destroy(p);
    cox_placement_destroy(again);
    return 0;
}
