/* Lists of numbers, with a message that names the option and the first word that is none. */
#include "study/choices.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* The number at *at, which moves behind it and its comma. */
static cox_status next_number(const char *option, const char *text, const char **at, int32_t *number)
{
    char *end = NULL;
    errno = 0;
    long long value = strtoll(*at, &end, 10);
    if (end == *at || (*end != '\0' && *end != ',') || (*end == ',' && end[1] == '\0') || errno != 0 ||
        value < INT32_MIN || value > INT32_MAX)
        return cox_fail(COX_INVALID, "%s \"%s\": \"%s\" is not a number, nor a list of them", option, text,
                        *at);
    *number = (int32_t)value;
    *at = *end == ',' ? end + 1 : end;
    return COX_OK;
}

static cox_status mark(const char *option, const char *what, const char *text, int32_t n_there,
                       uint8_t *is_chosen)
{
    for (const char *at = text; *at || at == text;) {
        int32_t number = 0;
        cox_status status = next_number(option, text, &at, &number);
        if (status != COX_OK) return status;
        if (number < 0 || number >= n_there) {
            return cox_fail(COX_INVALID, "%s %d: the model has %ss 0 to %d", option, (int)number, what,
                            (int)n_there - 1);
        }
        is_chosen[number] = 1;
    }
    return COX_OK;
}

cox_status cox_choose(const char *option, const char *what, const char *text, int32_t n_there, int32_t **list,
                      int32_t *n)
{
    uint8_t *is_chosen = calloc((size_t)n_there + 1, 1);
    int32_t *chosen = malloc(((size_t)n_there + 1) * sizeof *chosen), count = 0;
    cox_status status = is_chosen && chosen ? COX_OK : cox_no_memory(option);
    bool is_all = strcmp(text, "all") == 0;
    if (status == COX_OK && !is_all) status = mark(option, what, text, n_there, is_chosen);
    for (int32_t i = 0; i < n_there && status == COX_OK; i++) {
        if (is_all || is_chosen[i]) chosen[count++] = i;
    }
    free(is_chosen);
    if (status != COX_OK) {
        free(chosen);
        return status;
    }
    *list = chosen;
    *n = count;
    return COX_OK;
}

static bool is_among(const char *text, const char *words)
{
    size_t n = strlen(text);
    for (const char *word = words; n > 0 && *word;) {
        size_t length = strcspn(word, "|");
        if (length == n && memcmp(word, text, n) == 0) return true;
        word += length + (word[length] == '|');
    }
    return false;
}

cox_status cox_choose_positions(const char *option, const char *text, const char *words, int32_t **from_end,
                                int32_t *n)
{
    size_t most = 1;
    for (const char *at = text; *at; at++) most += *at == ',';
    *n = 0;
    *from_end = NULL;
    if (is_among(text, words)) return COX_OK;
    int32_t *list = malloc(most * sizeof *list), count = 0;
    cox_status status = list ? COX_OK : cox_no_memory(option);
    if (status == COX_OK && strcmp(text, "last") == 0) list[count++] = 1;
    bool is_list = *text == '-';
    if (status == COX_OK && count == 0 && !is_list)
        status = cox_fail(COX_INVALID, "%s \"%s\": must be last, %s, or -1, -2, ... from the end", option,
                          text, words);
    for (const char *at = text; is_list && *at && status == COX_OK;) {
        int32_t number = 0;
        status = next_number(option, text, &at, &number);
        if (status == COX_OK && (number > -1 || number == INT32_MIN))
            status =
                cox_fail(COX_INVALID, "%s \"%s\": %d is not a place from the end", option, text, (int)number);
        for (int32_t i = 0; i < count && status == COX_OK; i++) {
            if (list[i] == -number)
                status = cox_fail(COX_INVALID, "%s \"%s\": %d is there twice", option, text, (int)number);
        }
        if (status == COX_OK) list[count++] = -number;
    }
    if (status != COX_OK) {
        free(list);
        return status;
    }
    *from_end = list;
    *n = count;
    return COX_OK;
}
