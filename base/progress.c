/* Progress bars in the manner of tqdm: share, bar, done/total, [elapsed<left, rate]. */
#include "base/progress.h"

#include <math.h>
#include <string.h>

#include "base/counters.h"

static const double BAR_EVERY_S = 0.1, LOG_EVERY_S = 60.0;
enum { LINE_BYTES = 512, BAR_CELLS = 20 };

void cox_format_bytes(char *text, size_t n, uint64_t n_bytes)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    double value = (double)n_bytes;
    size_t unit = 0;
    while (value >= 1024.0 && unit < 4) {
        value /= 1024.0;
        unit++;
    }
    snprintf(text, n, unit == 0 ? "%.0f %s" : value < 10.0 ? "%.2f %s" : "%.1f %s", value, units[unit]);
}

void cox_format_duration(char *text, size_t n, double seconds)
{
    if (!(seconds >= 0.0) || seconds > 1e9) {
        snprintf(text, n, "?");
        return;
    }
    long whole = lround(seconds);
    if (whole >= 3600) {
        snprintf(text, n, "%ld:%02ld:%02ld", whole / 3600, whole / 60 % 60, whole % 60);
    } else {
        snprintf(text, n, "%ld:%02ld", whole / 60, whole % 60);
    }
}

static void format_amount(const cox_progress *progress, char *text, size_t n, double amount)
{
    if (progress->unit == COX_PROGRESS_BYTES) {
        cox_format_bytes(text, n, (uint64_t)amount);
    } else {
        snprintf(text, n, amount < 10.0 && amount > floor(amount) ? "%.1f" : "%.0f", amount);
    }
}

static void format_line(const cox_progress *progress, char *line, size_t n, uint64_t done, uint64_t total,
                        const char *note)
{
    double elapsed = cox_now_s() - progress->started_s;
    uint64_t n_new = done > progress->n_before ? done - progress->n_before : 0;
    double rate = elapsed > 0.0 ? (double)n_new / elapsed : 0.0;
    char done_text[32], total_text[32], rate_text[32], elapsed_text[32], left_text[32],
        bar[3 * BAR_CELLS + 8] = "";
    format_amount(progress, done_text, sizeof done_text, (double)done);
    format_amount(progress, total_text, sizeof total_text, (double)total);
    format_amount(progress, rate_text, sizeof rate_text, rate);
    cox_format_duration(elapsed_text, sizeof elapsed_text, elapsed);
    cox_format_duration(left_text, sizeof left_text,
                        total > 0 && rate > 0.0 ? ((double)total - (double)done) / rate : -1.0);
    const char *separator = note && *note ? ", " : "";
    if (!note) note = "";
    if (total == 0) {
        snprintf(line, n, "%s: %s [%s, %s/s%s%s]", progress->label, done_text, elapsed_text, rate_text,
                 separator, note);
        return;
    }
    double share = done >= total ? 1.0 : (double)done / (double)total;
    if (progress->style == COX_PROGRESS_BAR) {
        size_t at = 0;
        bar[at++] = '|';
        for (int i = 0; i < BAR_CELLS; i++) {
            const char *cell = (double)i < share * BAR_CELLS ? "\xe2\x96\x88" : " ";
            memcpy(bar + at, cell, strlen(cell));
            at += strlen(cell);
        }
        memcpy(bar + at, "| ", 3);
    }
    snprintf(line, n, "%s: %3.0f%% %s%s/%s [%s<%s, %s/s%s%s]", progress->label, 100.0 * share, bar, done_text,
             total_text, elapsed_text, left_text, rate_text, separator, note);
}

void cox_progress_begin(cox_progress *progress, const char *label, cox_progress_style style,
                        cox_progress_unit unit)
{
    *progress = (cox_progress){
        .label = label, .style = style, .unit = unit, .file = stderr, .started_s = cox_now_s()};
    progress->drawn_s = style == COX_PROGRESS_LOG ? progress->started_s : progress->started_s - BAR_EVERY_S;
}

static void draw(cox_progress *progress, uint64_t done, uint64_t total, const char *note, const char *end)
{
    char line[LINE_BYTES];
    format_line(progress, line, sizeof line, done, total, note);
    size_t n = strlen(line);
    if (progress->style == COX_PROGRESS_BAR) {
        int blanks = n < progress->n_drawn ? (int)(progress->n_drawn - n) : 0;
        fprintf(progress->file, "\r%s%*s%s", line, blanks, "", end);
    } else {
        fprintf(progress->file, "%s\n", line);
    }
    fflush(progress->file);
    progress->n_drawn = n;
}

void cox_progress_update(cox_progress *progress, uint64_t done, uint64_t total, const char *note)
{
    if (progress->style == COX_PROGRESS_NONE) return;
    double now = cox_now_s();
    if (now - progress->drawn_s < (progress->style == COX_PROGRESS_BAR ? BAR_EVERY_S : LOG_EVERY_S)) return;
    progress->drawn_s = now;
    draw(progress, done, total, note, "");
}

void cox_progress_end(cox_progress *progress, uint64_t done, uint64_t total, const char *note)
{
    if (progress->style != COX_PROGRESS_NONE) draw(progress, done, total, note, "\n");
}
