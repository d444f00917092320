/* The growing arrays of one tokenizer call: bytes, pieces, ranges, ids. */
#include <stdlib.h>
#include <string.h>

#include "model/tokenizer_internal.h"

void *cox__grown(void *items, size_t *capacity, size_t needed, size_t size)
{
    if (needed <= *capacity && items) return items;
    size_t wanted = *capacity < 64 ? 64 : *capacity;
    while (wanted < needed && wanted <= SIZE_MAX / 4 / size) wanted *= 2;
    void *larger = wanted < needed ? NULL : realloc(items, wanted * size);
    if (!larger) {
        cox_fail(COX_NO_MEMORY, "out of memory: %zu items of %zu bytes for a text's tokens", needed, size);
        return NULL;
    }
    *capacity = wanted;
    return larger;
}

cox_status cox__buffer_append(cox__buffer *buffer, const char *bytes, size_t n)
{
    char *bytes_with_room = cox__grown(buffer->bytes, &buffer->capacity, buffer->n + n, 1);
    if (!bytes_with_room) return COX_NO_MEMORY;
    buffer->bytes = bytes_with_room;
    if (n > 0) memcpy(buffer->bytes + buffer->n, bytes, n);
    buffer->n += n;
    return COX_OK;
}

void cox__buffer_free(cox__buffer *buffer)
{
    free(buffer->bytes);
    *buffer = (cox__buffer){0};
}

static cox_status add_piece(cox__pieces *pieces, cox__piece piece)
{
    cox__piece *items = cox__grown(pieces->items, &pieces->capacity, pieces->n + 1, sizeof piece);
    if (!items) return COX_NO_MEMORY;
    pieces->items = items;
    items[pieces->n++] = piece;
    return COX_OK;
}

cox_status cox__pieces_add(cox__pieces *pieces, const char *bytes, size_t n, bool is_at_start)
{
    if (n == 0) return COX_OK;
    size_t begin = pieces->text.n;
    cox_status status = cox__buffer_append(&pieces->text, bytes, n);
    if (status != COX_OK) return status;
    return add_piece(pieces, (cox__piece){begin, begin + n, -1, is_at_start});
}

cox_status cox__pieces_add_id(cox__pieces *pieces, int32_t id)
{
    return add_piece(pieces, (cox__piece){pieces->text.n, pieces->text.n, id, false});
}

void cox__pieces_clear(cox__pieces *pieces)
{
    pieces->n = 0;
    pieces->text.n = 0;
}

cox_status cox__ranges_add(cox__ranges *ranges, size_t begin, size_t end, bool is_match)
{
    cox__range *items = cox__grown(ranges->items, &ranges->capacity, ranges->n + 1, sizeof *items);
    if (!items) return COX_NO_MEMORY;
    ranges->items = items;
    items[ranges->n++] = (cox__range){begin, end, is_match};
    return COX_OK;
}

cox_status cox__tokens_add(cox_tokens *tokens, int32_t id)
{
    int32_t *ids = cox__grown(tokens->ids, &tokens->capacity, tokens->n + 1, sizeof *ids);
    if (!ids) return COX_NO_MEMORY;
    tokens->ids = ids;
    ids[tokens->n++] = id;
    return COX_OK;
}

void cox_tokens_free(cox_tokens *tokens)
{
    free(tokens->ids);
    *tokens = (cox_tokens){0};
}

void cox__scratch_free(cox__scratch *scratch)
{
    for (int i = 0; i < 2; i++) {
        cox__buffer_free(&scratch->pieces[i].text);
        free(scratch->pieces[i].items);
        cox__buffer_free(&scratch->text[i]);
    }
    cox__ranges_free(&scratch->ranges);
    free(scratch->symbols);
    free(scratch->heap);
}
