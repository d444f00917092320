/* The table of options, and the one parser and the one help printer that read it. */
#include "cli/options.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/nearest.h"
#include "cluster/exchange.h"

enum {
    GENERATE = COX_COMMAND_GENERATE,
    BATCH = COX_COMMAND_BATCH,
    LOGITS = COX_COMMAND_LOGITS,
    TOKENIZE = COX_COMMAND_TOKENIZE,
    INSPECT = COX_COMMAND_INSPECT,
    DIRECTION = COX_COMMAND_DIRECTION,
    ROUTES = COX_COMMAND_ROUTES,
    EVALUATE = COX_COMMAND_EVALUATE,
    CAPTURE = COX_COMMAND_CAPTURE,
    DECOMPOSE = COX_COMMAND_DECOMPOSE,
    SWEEP = COX_COMMAND_SWEEP,
    BENCH = COX_COMMAND_BENCH,
    REPORT = COX_COMMAND_REPORT,
    CLASSES = DIRECTION | ROUTES | DECOMPOSE | SWEEP, /* of two sets of prompts */
    MEASURES = ROUTES | DECOMPOSE | EVALUATE,         /* with intervals */
    SETS = CLASSES | EVALUATE | CAPTURE,
    RUNS = GENERATE | BATCH | LOGITS | SETS | BENCH, /* commands that run the model */
    TEXT = GENERATE | BATCH,
    CHATS = TEXT | SETS | TOKENIZE | BENCH, /* commands that render chat templates */
    ALL = RUNS | TOKENIZE | INSPECT | REPORT
};

static const struct {
    cox_command command;
    const char *name, *usage, *about;
} commands[] = {
    {COX_COMMAND_GENERATE, "generate", "--model DIR --prompt TEXT [--prompt TEXT ...]",
     "Answers prompts; the text is streamed to standard output (of several prompts each after a line \"> "
     "PROMPT\"), all else"
     " goes to standard error."},
    {COX_COMMAND_BATCH, "batch", "--model DIR --input FILE --output FILE",
     "Answers a file of OpenAI batch lines; each answer is written as soon as it is complete."},
    {COX_COMMAND_LOGITS, "logits", "--model DIR --tokens \"1,2,3\" --output FILE.safetensors",
     "Writes the f32 logits [n_tokens, vocab_size] of every position of a list of token ids."},
    {COX_COMMAND_TOKENIZE, "tokenize", "--model DIR [--decode] [--chat [--conversations FILE]] < TEXT",
     "Turns standard input into token ids (one JSON list), or ids back into text."},
    {COX_COMMAND_INSPECT, "inspect", "--model DIR [--ranks N [--nodes N]]",
     "Describes a model and foretells what each rank would hold, loading nothing."},
    {COX_COMMAND_SWEEP, "sweep", "--model DIR --grid FILE --a FILE --b FILE --rules FILE --output DIR",
     "Runs a grid of steering plans over two sets of prompts: log-odds of the first token and KL divergence "
     "of "
     "every cell, then answers of the best. A sweep that was stopped goes on with the same command."},
    {COX_COMMAND_DIRECTION, "direction", "--model DIR --a FILE --b FILE --output FILE.safetensors",
     "Writes what sets two sets of prompts apart inside the model: the difference of the mean rows at a "
     "site, of every expert too."},
    {COX_COMMAND_ROUTES, "routes", "--model DIR --a FILE --b FILE",
     "Which experts the tokens of one set of prompts go to more often than those of another."},
    {COX_COMMAND_CAPTURE, "capture", "--model DIR --input FILE [--input FILE ...] --output FOLDER",
     "Writes what flows through the model at chosen sites of prompts: rows in shards, or their statistics."},
    {COX_COMMAND_DECOMPOSE, "decompose", "--model DIR --vector FILE[#NAME] --a FILE --b FILE",
     "How much of a direction of the residual stream attention and each expert write, layer by layer."},
    {COX_COMMAND_EVALUATE, "evaluate",
     "--rules FILE --results FILE [--baseline FILE] | --model DIR --prompts FILE",
     "Judges the answers of a batch, beside another's, and what steering does to a model's logits."},
    {COX_COMMAND_REPORT, "report", "--sweep DIR --output FILE.html [--routes FILE] [--decompose FILE]",
     "Shows what a sweep found as one HTML page that needs no network: maps, curves, controls, answers "
     "before "
     "and after, all parameters."},
    {COX_COMMAND_BENCH, "bench",
     "--model DIR --steer-mix | --chat | --sweep --grid FILE --a FILE --b FILE --rules FILE",
     "Measures tokens per second of one batch without steering, and with a plan of its own for every "
     "request; or chats rendered per second; or the cells of a sweep, beside some of them one by one."},
};

typedef enum kind { FLAG, INTEGER, NUMBER, TEXT_VALUE, TEXTS, CHOICE, BYTES } kind;

typedef struct option_row {
    const char *name;
    int commands;
    kind kind;
    size_t offset;     /* in cox_options */
    const char *value; /* what --help calls it; of CHOICE the allowed words with | between */
    double low, high;  /* of INTEGER and NUMBER; BYTES: above low */
    bool is_required;
    const char *help;
} option_row;

#define AT(field) offsetof(cox_options, field)

static const option_row table[] = {
    {"--model", ALL & ~(EVALUATE | REPORT), TEXT_VALUE, AT(model), "DIR", 0, 0, true,
     "a Hugging Face model folder"},
    {"--model", EVALUATE, TEXT_VALUE, AT(model), "DIR", 0, 0, false,
     "a Hugging Face model folder, for measures of its logits"},
    {"--results", EVALUATE, TEXT_VALUE, AT(results), "FILE", 0, 0, false,
     "the output of a batch, to be judged"},
    {"--baseline", EVALUATE, TEXT_VALUE, AT(baseline), "FILE", 0, 0, false,
     "the output of another batch with the same custom_ids, to compare with"},
    {"--rules", EVALUATE | DECOMPOSE, TEXT_VALUE, AT(rules), "FILE.json", 0, 0, false,
     "how answers are judged, and the first tokens of the log-odds"},
    {"--prompts", EVALUATE, TEXTS, AT(prompt_files), "FILE", 0, 0, false,
     "the prompts, one JSON object a line, with the fields that rules and --by ask for; may be given several "
     "times"},
    {"--by", EVALUATE, TEXT_VALUE, AT(by), "FIELD", 0, 0, false,
     "numbers also for each value of this field of the prompts' lines"},
    {"--continuations", EVALUATE, TEXT_VALUE, AT(continuations), "FILE", 0, 0, false,
     "the output of a batch whose answers the model is to find likely (default: the field \"answer\")"},
    {"--items", EVALUATE, TEXT_VALUE, AT(items), "FILE", 0, 0, false,
     "write each prompt's numbers, one JSON object a line"},
    {"--sweep", REPORT, TEXT_VALUE, AT(sweep), "DIR", 0, 0, true, "the folder that a sweep wrote"},
    {"--controls", REPORT, TEXT_VALUE, AT(controls), "DIR", 0, 0, false,
     "the folder of another sweep of the same model and prompts, whose controls are shown beside the best "
     "cells"},
    {"--routes", REPORT, TEXT_VALUE, AT(routes), "FILE", 0, 0, false,
     "what `routes` wrote with --json or --csv"},
    {"--decompose", REPORT, TEXT_VALUE, AT(decomposition), "FILE", 0, 0, false,
     "what `decompose` wrote with --json or --csv"},
    {"--heldout", REPORT, TEXT_VALUE, AT(heldout), "FILE.csv", 0, 0, false,
     "the table of held-out answers that scripts/study writes"},
    {"--a", REPORT, TEXT_VALUE, AT(prompts_a), "FILE", 0, 0, false,
     "the sweep's prompts of A, to be shown with their answers"},
    {"--b", REPORT, TEXT_VALUE, AT(prompts_b), "FILE", 0, 0, false, "the sweep's prompts of B, likewise"},
    {"--title", REPORT, TEXT_VALUE, AT(title), "TEXT", 0, 0, false,
     "of the page (default: what was swept, by the model's name)"},
    {"--output", REPORT, TEXT_VALUE, AT(output), "FILE.html", 0, 0, true, "the page to write"},
    {"--prompt", GENERATE, TEXTS, AT(prompts), "TEXT", 0, 0, false, "a prompt; may be given several times"},
    {"--prompt-file", GENERATE, TEXTS, AT(prompt_files), "FILE", 0, 0, false,
     "a file that holds one prompt (- for standard input); may be given several times"},
    {"--input", BATCH, TEXT_VALUE, AT(input), "FILE", 0, 0, true,
     "requests, one JSON object a line (- for standard input)"},
    {"--output", BATCH, TEXT_VALUE, AT(output), "FILE", 0, 0, true,
     "answers, one JSON object a line (- for standard output)"},
    {"--output", LOGITS, TEXT_VALUE, AT(output), "FILE", 0, 0, true, "the safetensors file to write"},
    {"--a", CLASSES, TEXT_VALUE, AT(prompts_a), "FILE", 0, 0, true,
     "prompts of the class that is compared (a direction leads to it), one JSON object a line: {\"prompt\": "
     "...}, "
     "{\"messages\": [...]}, or OpenAI batch lines (- for standard input)"},
    {"--b", CLASSES, TEXT_VALUE, AT(prompts_b), "FILE", 0, 0, true,
     "prompts of the class that it is compared with"},
    {"--output", DIRECTION, TEXT_VALUE, AT(output), "FILE", 0, 0, true, "the vector file to write"},
    {"--grid", SWEEP, TEXT_VALUE, AT(grid), "FILE", 0, 0, true,
     "which plans to try (docs/formats.md, grids)"},
    {"--rules", SWEEP, TEXT_VALUE, AT(rules), "FILE", 0, 0, true,
     "how answers are judged, and the first tokens whose log-odds are measured (docs/formats.md, rules)"},
    {"--neutral", SWEEP, TEXT_VALUE, AT(neutral), "FILE", 0, 0, false,
     "prompts on which the KL divergence from the clean run is measured (default: those of --b)"},
    {"--output", SWEEP, TEXT_VALUE, AT(output), "DIR", 0, 0, true,
     "folder of the results, made if need be; a sweep that was stopped goes on there"},
    {"--show-cell", SWEEP, INTEGER, AT(shown_cell), "N", 0, 1e15, false,
     "only print the plan of cell N, as a request of batch takes it; its paths are absolute"},
    {"--best", SWEEP, INTEGER, AT(n_best), "N", 0, 10000, false,
     "generate answers of the N cells of each block that weaken most and the N that strengthen most, and of "
     "the "
     "controls at the same places (default 1)"},
    {"--max-kl", SWEEP, NUMBER, AT(max_kl), "NATS", 0, 1e9, false,
     "leave cells with a larger mean KL divergence out of the choice (default 1)"},
    {"--site", DIRECTION, TEXT_VALUE, AT(site), "SITE", 0, 0, false,
     "resid_pre, attn_out, resid_mid, router_logits, expert_out, moe_out or resid_post (default resid_post)"},
    {"--layer", DIRECTION, TEXT_VALUE, AT(layer), "N[,N...]|all", 0, 0, false,
     "layers, one vector for each (default all)"},
    {"--expert", DIRECTION, TEXT_VALUE, AT(expert), "N[,N...]|all", 0, 0, false,
     "at expert_out: experts, one vector for each, whether or not a row was routed to them (default all)"},
    {"--position", DIRECTION, TEXT_VALUE, AT(position), "last|-K[,-K...]|mean", 0, 0, false,
     "which token of a prompt: the last, the K-th from its end (of several, vectors for each), or the mean "
     "over all (default last)"},
    {"--method", DIRECTION, CHOICE, AT(method), "mean-difference|pc1", 0, 0, false,
     "difference of the class means, or first principal component of the pairs' differences (default "
     "mean-difference)"},
    {"--filter-tokens", DIRECTION, TEXT_VALUE, AT(filter_tokens), "IDS", 0, 0, false,
     "of a only prompts whose answer begins with one of these tokens more likely than not, of b only the "
     "others"},
    {"--filter-phrase", DIRECTION, TEXTS, AT(filter_phrases), "TEXT", 0, 0, false,
     "the same by the first token of a text; may be given several times"},
    {"--filter-rules", DIRECTION, TEXT_VALUE, AT(filter_rules), "FILE", 0, 0, false,
     "the same by the first_tokens of a rules file"},
    {"--input", CAPTURE, TEXTS, AT(inputs), "FILE", 0, 0, true,
     "prompts, one JSON object a line: {\"prompt\": ...}, {\"messages\": [...]}, or OpenAI batch lines; "
     "may be given several times, each a class of --statistics"},
    {"--output", CAPTURE, TEXT_VALUE, AT(output), "FOLDER", 0, 0, true, "the folder to write into"},
    {"--sites", CAPTURE, TEXT_VALUE, AT(sites), "SITE[,SITE...]|all", 0, 0, false,
     "resid_pre, attn_out, resid_mid, router_logits, expert_out, moe_out, resid_post (default "
     "resid_post; with --routes none)"},
    {"--layers", CAPTURE, TEXT_VALUE, AT(layers), "N[,N...]|all", 0, 0, false, "layers (default all)"},
    {"--experts", CAPTURE, TEXT_VALUE, AT(experts), "N[,N...]|all", 0, 0, false,
     "at expert_out: experts (default all)"},
    {"--positions", CAPTURE, TEXT_VALUE, AT(positions), "last|-K[,-K...]|all", 0, 0, false,
     "tokens of each prompt, from its end, or all (default last)"},
    {"--counterfactual", CAPTURE, FLAG, AT(is_counterfactual), NULL, 0, 0, false,
     "at expert_out: the outputs of all experts asked for, routed or not (default: of the routed ones)"},
    {"--routes", CAPTURE, FLAG, AT(has_routes), NULL, 0, 0, false,
     "the router's choices too, with logits, gate weights and margins"},
    {"--statistics", CAPTURE, FLAG, AT(has_statistics), NULL, 0, 0, false,
     "count, mean and variance for each file, and no rows"},
    {"--limit", SETS, INTEGER, AT(limit), "N", 1, INT32_MAX, false, "only the first N prompts of each file"},
    {"--unit", DIRECTION, FLAG, AT(is_unit), NULL, 0, 0, false, "scale each vector to norm 1"},
    {"--vector", DECOMPOSE, TEXT_VALUE, AT(vector), "FILE[#NAME]", 0, 0, true, "the direction"},
    {"--layer", DECOMPOSE, TEXT_VALUE, AT(layer), "N", 0, 0, false,
     "shares are of what stands after this layer (default: the vector's own, else the last)"},
    {"--position", DECOMPOSE, TEXT_VALUE, AT(position), "last|-K|mean", 0, 0, false,
     "which token of a prompt: the last, the K-th from its end, or the mean over all (default last)"},
    {"--effects", DECOMPOSE, CHOICE, AT(effects), "layers|experts", 0, 0, false,
     "also what ablating the direction at one place alone does to the log-odds: at attention and experts of "
     "each layer; or at each single expert too"},
    {"--last", ROUTES, INTEGER, AT(last), "K", 1, INT32_MAX, false,
     "the tokens of a prompt that count, from its end (default 5)"},
    {"--measure", ROUTES, CHOICE, AT(measure), "top1|topk|risk", 0, 0, false,
     "what the table is sorted by and the plot shows (default top1)"},
    {"--top", ROUTES | DECOMPOSE | REPORT, INTEGER, AT(top), "N", 0, INT32_MAX, false,
     "rows of the table of experts (default 20)"},
    {"--resamples", MEASURES, INTEGER, AT(resamples), "N", 100, 1000000, false,
     "bootstrap samples of the intervals (default 2000)"},
    {"--seed", MEASURES, INTEGER, AT(seed), "N", -9.2e18, 9.2e18, false, "of the bootstrap (default 0)"},
    {"--csv", MEASURES | REPORT, TEXT_VALUE, AT(csv), "FILE", 0, 0, false, "write all numbers as CSV too"},
    {"--plot", ROUTES, TEXT_VALUE, AT(plot), "FILE.svg", 0, 0, false, "draw a map of all experts"},
    {"--force", LOGITS | SETS | REPORT, FLAG, AT(has_force), NULL, 0, 0, false,
     "replace an output file that exists"},
    {"--force", GENERATE, FLAG, AT(has_force), NULL, 0, 0, false,
     "write into a --trace-routes folder that is not empty"},
    {"--steer", GENERATE, TEXTS, AT(plans), "PLAN.json", 0, 0, false,
     "a steering plan for all prompts; or given once for each prompt, in their order"},
    {"--steer", BATCH, TEXT_VALUE, AT(plan), "PLAN.json", 0, 0, false,
     "the steering plan of requests that have no \"steering\" of their own"},
    {"--steer", LOGITS | EVALUATE, TEXT_VALUE, AT(plan), "PLAN.json", 0, 0, false, "a steering plan"},
    {"--force-steering", TEXT | LOGITS | EVALUATE | DECOMPOSE | SWEEP, FLAG, AT(forces_steering), NULL, 0, 0,
     false, "accept steering vectors made for another model or tokenizer; results say so"},
    {"--trace-routes", TEXT, TEXT_VALUE, AT(trace_folder), "DIR", 0, 0, false,
     "write each answer's routes to a file in this folder, made if need be"},
    {"--force", BATCH, FLAG, AT(has_force), NULL, 0, 0, false,
     "begin anew: replace an output file that exists (without: a run that was stopped goes on)"},
    {"--drain-time", BATCH, INTEGER, AT(drain_time_s), "SECONDS", 0, 1 << 24, false,
     "after Ctrl-C, SIGTERM or SIGUSR1 answers that are running get so long to finish, then the run ends "
     "with exit code 75 (default 10)"},
    {"--tokens", LOGITS, TEXT_VALUE, AT(tokens), "IDS", 0, 0, false,
     "token ids, separated by commas or blanks"},
    {"--tokens-file", LOGITS, TEXT_VALUE, AT(tokens_file), "FILE", 0, 0, false,
     "a file of token ids (- for standard input)"},
    {"--decode", TOKENIZE, FLAG, AT(is_decode), NULL, 0, 0, false,
     "ids (a JSON list, or separated by blanks) to text"},
    {"--chat", TOKENIZE, FLAG, AT(is_chat), NULL, 0, 0, false,
     "wrap the text in the chat template, as a user's message"},
    {"--conversations", TOKENIZE, TEXT_VALUE, AT(conversations), "FILE", 0, 0, false,
     "of --chat: conversations, one JSON object a line (- for standard input): messages, and tools, "
     "documents, "
     "chat_template_kwargs, add_generation_prompt if need be; each gives a line with text and ids, or an "
     "error"},
    {"--max-tokens", TEXT | SWEEP, INTEGER, AT(max_tokens), "N", 0, 1 << 24, false,
     "generate at most so many tokens (default 256; in batch, for requests that do not say)"},
    {"--raw", CHATS & ~BENCH, FLAG, AT(is_raw), NULL, 0, 0, false,
     "take the prompt as it is, without a chat template"},
    {"--system", CHATS & ~BENCH, TEXT_VALUE, AT(system), "TEXT", 0, 0, false,
     "a system message before the prompt, and before chats that have none"},
    {"--template", CHATS, TEXT_VALUE, AT(template_name), "NAME|FILE", 0, 0, false,
     "chat template: olmoe, mixtral, gpt-oss, gpt-oss-bare, qwen3, chatml, organism, or a file with a Jinja "
     "template (default: the checkpoint's)"},
    {"--template-kwargs", CHATS, TEXT_VALUE, AT(template_kwargs), "JSON", 0, 0, false,
     "what the template is told besides: {\"enable_thinking\": false}, {\"reasoning_effort\": \"high\"}"},
    {"--date", CHATS, TEXT_VALUE, AT(date), "YYYY-MM-DD", 0, 0, false,
     "the date that chat templates tell the model (default: today, as transformers does)"},
    {"--python", CHATS, TEXT_VALUE, AT(python), "PATH", 0, 0, false,
     "a Python 3 with jinja2 (3.1 or newer), which renders chat templates that are not built in (default: "
     "python3, or /usr/bin/python3)"},
    {"--temperature", TEXT, NUMBER, AT(temperature), "T", 0, 1e6, false,
     "0 takes the most likely token (default 0: greedy)"},
    {"--top-k", TEXT, INTEGER, AT(top_k), "K", 0, INT32_MAX, false,
     "sample among the K most likely tokens (default 0: off)"},
    {"--top-p", TEXT, NUMBER, AT(top_p), "P", 0, 1, false,
     "sample among the likeliest tokens of mass P (default 1: off)"},
    {"--min-p", TEXT, NUMBER, AT(min_p), "P", 0, 1, false,
     "drop tokens less likely than P times the likeliest (default 0: off)"},
    {"--repetition-penalty", TEXT, NUMBER, AT(repetition_penalty), "R", 1e-6, 1e6, false,
     "divide the logits of tokens already seen by R (default 1: off)"},
    {"--generation-config", TEXT, FLAG, AT(uses_generation_config), NULL, 0, 0, false,
     "sample as the model's generation_config.json says (do_sample, temperature, top_k, top_p, min_p, "
     "repetition_penalty, max_new_tokens, with transformers' defaults); options given beside it win"},
    {"--presence-penalty", TEXT, NUMBER, AT(presence_penalty), "P", -2, 2, false,
     "take P from the logits of tokens that were generated before (default 0: off)"},
    {"--frequency-penalty", TEXT, NUMBER, AT(frequency_penalty), "F", -2, 2, false,
     "take F from them for each time that they were (default 0: off)"},
    {"--logit-bias", GENERATE, TEXT_VALUE, AT(logit_bias), "JSON", 0, 0, false,
     "what is added to the logits of single tokens, by id: {\"17\": -100, \"4\": 2.5}"},
    {"--seed", TEXT, INTEGER, AT(seed), "N", -9.2e18, 9.2e18, false,
     "of the random numbers (default 0); a seed gives the same text on any number of ranks"},
    {"--stop", GENERATE, TEXTS, AT(stops), "TEXT", 0, 0, false,
     "end the text before this string; may be given several times"},
    {"--ignore-eos", TEXT, FLAG, AT(ignores_eos), NULL, 0, 0, false,
     "go on after the model's end-of-text tokens"},
    {"--logprobs", GENERATE, INTEGER, AT(logprobs), "N", 0, 20, false,
     "log probability of each token and of the N likeliest (needs --json)"},
    {"--logits-digest", TEXT | SWEEP, FLAG, AT(wants_digest), NULL, 0, 0, false,
     "SHA-256 over the f32 logits of each sampled position"},
    {"--steer-mix", BENCH, FLAG, AT(has_steer_mix), NULL, 0, 0, false,
     "unsteered, residual plans, single-expert routed plans, in turns"},
    {"--sweep", BENCH, FLAG, AT(has_sweep_bench), NULL, 0, 0, false,
     "all cells of a grid as a sweep runs them, in turns with random cells that are run one by one"},
    {"--chat", BENCH, FLAG, AT(is_chat), NULL, 0, 0, false,
     "chats through the chat template, and their tokens"},
    {"--grid", BENCH, TEXT_VALUE, AT(grid), "FILE", 0, 0, false, "of --sweep (docs/formats.md, grids)"},
    {"--a", BENCH, TEXT_VALUE, AT(prompts_a), "FILE", 0, 0, false, "of --sweep: as in sweep"},
    {"--b", BENCH, TEXT_VALUE, AT(prompts_b), "FILE", 0, 0, false, "likewise"},
    {"--neutral", BENCH, TEXT_VALUE, AT(neutral), "FILE", 0, 0, false, "likewise"},
    {"--rules", BENCH, TEXT_VALUE, AT(rules), "FILE", 0, 0, false, "likewise"},
    {"--limit", BENCH, INTEGER, AT(limit), "N", 1, INT32_MAX, false,
     "of --sweep: only the first N prompts of each file"},
    {"--cells", BENCH, INTEGER, AT(n_cells), "N", 2, 1 << 20, false,
     "of --sweep: random cells that are run one by one (default 100)"},
    {"--requests", BENCH, INTEGER, AT(n_requests), "N", 1, 1 << 16, false,
     "requests of the batch, each with a plan of its own (default 256); of --chat: chats"},
    {"--prompt-tokens", BENCH, INTEGER, AT(n_prompt_tokens), "N", 1, 1 << 24, false,
     "random tokens of each prompt (default 32)"},
    {"--new-tokens", BENCH, INTEGER, AT(n_new_tokens), "N", 1, 1 << 24, false,
     "tokens generated for each (default 32); end tokens do not end an answer"},
    {"--rounds", BENCH, INTEGER, AT(n_rounds), "N", 1, 10000, false,
     "rounds of all three, after one that does not count (default 9)"},
    {"--norm", BENCH, NUMBER, AT(relative_norm), "X", 1e-6, 1e3, false,
     "length of the plans' random vectors, relative to the mean row at their place (default 0.1)"},
    {"--seed", BENCH, INTEGER, AT(seed), "N", -9.2e18, 9.2e18, false,
     "of prompts, vectors and experts (default 0)"},
    {"--json", GENERATE | TOKENIZE | INSPECT | MEASURES | BENCH | REPORT, FLAG, AT(is_json), NULL, 0, 0,
     false, "print JSON for machines"},
    {"--ranks", RUNS | INSPECT, INTEGER, AT(ranks), "N", 1, 65536, false,
     "MPI ranks (default 1); started by this program unless mpirun or srun did"},
    {"--nodes", INSPECT, INTEGER, AT(n_nodes), "N", 1, 65536, false,
     "sums of N machines too, which hold the ranks in order, as many each as can be"},
    {"--all-ranks", INSPECT, FLAG, AT(lists_ranks), NULL, 0, 0, false,
     "a line for every rank, and its experts of every layer (default: a line for ranks that are alike)"},
    {"--threads", RUNS | INSPECT, INTEGER, AT(threads), "N", 1, 4096, false,
     "OpenMP threads of each rank (default: its share of the cores)"},
    {"--coordinators", RUNS | INSPECT, INTEGER, AT(coordinators), "N", 1, 65536, false,
     "ranks that run attention and sampling (default 1)"},
    {"--experts-on", RUNS | INSPECT, CHOICE, AT(experts_on), "workers|all", 0, 0, false,
     "which ranks host experts: those that do not coordinate, or all (default workers)"},
    {"--placement", RUNS | INSPECT, TEXT_VALUE, AT(placement), "FILE", 0, 0, false,
     "which expert lives on which ranks (default: round robin)"},
    {"--exchange", RUNS | INSPECT, CHOICE, AT(exchange), "auto|self|alltoall|sparse", 0, 0, false,
     "how rows travel (default auto)"},
    {"--prefill-chunk", RUNS | INSPECT, INTEGER, AT(prefill_chunk), "N", 1, 65536, false,
     "rows of one prompt in one step (default 512)"},
    {"--micro-batches", RUNS | INSPECT, INTEGER, AT(micro_batches), "N", 1, COX_MAX_SLOTS, false,
     "parts of a step in flight at once, so that attention and experts overlap (default 2 with experts on "
     "other ranks, else 1)"},
    {"--kernel", RUNS | INSPECT, TEXT_VALUE, AT(kernel), "NAME", 0, 0, false,
     "auto, reference, avx2, avx512 (same bits), or bf16-act, blas (rounding or reordering; see docs) "
     "(default auto)"},
    {"--kv-memory", RUNS | INSPECT, BYTES, AT(kv_memory_bytes), "BYTES", 0, 0, false,
     "memory of the KV cache of each coordinator: 512M, 4G (default: by the model's context; of a sweep 1G)"},
    {"--residual-memory", RUNS | INSPECT, BYTES, AT(residual_memory_bytes), "BYTES", -1, 0, false,
     "memory of stored rows of unsteered prompts, from which steered requests start at their first layer; 0: "
     "none (default: an eighth of the KV cache, at most 64M)"},
    {"--stats", RUNS, FLAG, AT(has_stats), NULL, 0, 0, false,
     "a table per rank at the end, on standard error"},
    {"--progress", RUNS, CHOICE, AT(progress), "auto|bar|log|none", 0, 0, false,
     "progress on standard error: a bar, or a line a minute (default auto: a bar on a terminal)"},
    {"--help", ALL, FLAG, AT(has_help), NULL, 0, 0, false, "this text"},
};
enum { N_ROWS = sizeof table / sizeof *table };
_Static_assert(N_ROWS <= 8 * sizeof((cox_options *)0)->given, "a bit for each row");

const char *cox_command_name(cox_command command)
{
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
        if (commands[i].command == command) return commands[i].name;
    }
    return "?";
}

int cox_command_find(const char *name)
{
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
        if (strcmp(commands[i].name, name) == 0) return (int)commands[i].command;
    }
    return 0;
}

void cox_command_offer(cox_nearest *nearest)
{
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        cox_nearest_offer(nearest, commands[i].name, strlen(commands[i].name));
}

void cox_command_print_list(FILE *file)
{
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
        fprintf(file, "  %-10s%s\n", commands[i].name, commands[i].about);
    }
}

void cox_options_defaults(cox_options *options, cox_command command)
{
    *options = (cox_options){.command = command,
                             .coordinators = 1,
                             .experts_on = "workers",
                             .exchange = "auto",
                             .kernel = "auto",
                             .prefill_chunk = 512,
                             .residual_memory_bytes = UINT64_MAX,
                             .max_tokens = 256,
                             .n_best = 1,
                             .shown_cell = -1,
                             .max_kl = 1,
                             .drain_time_s = 10,
                             .site = "resid_post",
                             .layer = "all",
                             .position = "last",
                             .last = 5,
                             .measure = "top1",
                             .top = 20,
                             .resamples = 2000,
                             .method = "mean-difference",
                             .layers = "all",
                             .positions = "last",
                             .logprobs = -1,
                             .top_p = 1.0,
                             .repetition_penalty = 1.0,
                             .n_requests = 256,
                             .n_prompt_tokens = 32,
                             .n_new_tokens = 32,
                             .n_rounds = 9,
                             .n_cells = 100,
                             .relative_norm = 0.1,
                             .progress = "auto"};
}

void cox_options_free(cox_options *options)
{
    free(options->prompts.items);
    free(options->prompt_files.items);
    free(options->stops.items);
    free(options->filter_phrases.items);
    free(options->inputs.items);
    free(options->plans.items);
}

/* --- Values --- */

static cox_status bad_value(const option_row *row, const char *text, const char *wanted)
{
    return cox_fail(COX_INVALID, "%s \"%s\": must be %s", row->name, text, wanted);
}

static cox_status read_integer(const option_row *row, const char *text, int64_t *out)
{
    char *end = NULL;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (end == text || *end != '\0') return bad_value(row, text, "a whole number");
    if (errno != 0 || (double)value < row->low || (double)value > row->high) {
        return cox_fail(COX_INVALID, "%s %s: outside %.0f to %.0f", row->name, text, row->low, row->high);
    }
    *out = value;
    return COX_OK;
}

static cox_status read_number(const option_row *row, const char *text, double *out)
{
    char *end = NULL;
    double value = strtod(text, &end);
    if (end == text || *end != '\0' || !isfinite(value)) return bad_value(row, text, "a number");
    if (value < row->low || value > row->high) {
        return cox_fail(COX_INVALID, "%s %s: outside %g to %g", row->name, text, row->low, row->high);
    }
    *out = value;
    return COX_OK;
}

/* 4096, 512K, 512M, 4G, 1T, with an optional B or iB behind the letter; powers of 1024. */
static cox_status read_bytes(const option_row *row, const char *text, uint64_t *out)
{
    static const char letters[] = "KMGT";
    char *end = NULL;
    double value = strtod(text, &end);
    const char *letter = *end ? strchr(letters, *end >= 'a' ? *end - 'a' + 'A' : *end) : NULL;
    double unit = 1.0;
    if (letter) {
        end++;
        unit = pow(1024.0, (double)(letter - letters + 1));
        if (*end == 'i') end++;
        if (*end == 'B' || *end == 'b') end++;
    }
    if (end == text || *end != '\0' || !(value >= 0.0 && value > row->low))
        return bad_value(row, text, "a number of bytes such as 512M or 4G");
    if (value * unit > 1e18) return bad_value(row, text, "below 1e18 bytes");
    *out = (uint64_t)(value * unit);
    return COX_OK;
}

static cox_status read_choice(const option_row *row, const char *text, const char **out)
{
    size_t n = strlen(text);
    for (const char *word = row->value; n > 0 && *word;) {
        size_t length = strcspn(word, "|");
        if (length == n && memcmp(word, text, n) == 0) {
            *out = text;
            return COX_OK;
        }
        word += length + (word[length] == '|');
    }
    cox_nearest nearest = cox_nearest_to(text, n);
    cox_nearest_offer_words(&nearest, row->value, "|");
    return cox_fail(COX_INVALID, "%s \"%s\": must be one of %s%s", row->name, text, row->value, nearest.hint);
}

static cox_status add_text(const char *text, cox_texts *list)
{
    const char **larger = realloc(list->items, (list->n + 1) * sizeof *larger);
    if (!larger) return cox_fail(COX_NO_MEMORY, "out of memory for the options");
    list->items = larger;
    list->items[list->n++] = text;
    return COX_OK;
}

static cox_status store(const option_row *row, const char *text, cox_options *options)
{
    void *field = (char *)options + row->offset;
    switch (row->kind) {
    case FLAG: *(bool *)field = true; return COX_OK;
    case INTEGER: return read_integer(row, text, field);
    case NUMBER: return read_number(row, text, field);
    case TEXT_VALUE: *(const char **)field = text; return COX_OK;
    case TEXTS: return add_text(text, field);
    case CHOICE: return read_choice(row, text, field);
    case BYTES: return read_bytes(row, text, field);
    }
    return COX_INTERNAL;
}

/* --- Parsing --- */

static const option_row *find_row(const char *name, size_t length, cox_command command)
{
    for (size_t i = 0; i < N_ROWS; i++) {
        if (!(table[i].commands & (int)command)) continue;
        if (strlen(table[i].name) == length && memcmp(table[i].name, name, length) == 0) return &table[i];
    }
    return NULL;
}

static bool has_bit(const cox_options *options, size_t row)
{
    return options->given[row / 64] >> row % 64 & 1;
}

bool cox_options_is_given(const cox_options *options, const char *name)
{
    const option_row *row = find_row(name, strlen(name), options->command);
    return row && has_bit(options, (size_t)(row - table));
}

static cox_status unknown_option(const char *name, size_t length, cox_command command)
{
    cox_nearest nearest = cox_nearest_to(name, length);
    for (size_t i = 0; i < N_ROWS; i++) {
        if (table[i].commands & (int)command)
            cox_nearest_offer(&nearest, table[i].name, strlen(table[i].name));
    }
    return cox_fail(COX_INVALID, "unknown option %.*s%s", (int)length, name, nearest.hint);
}

static cox_status check_required(const cox_options *options)
{
    for (size_t i = 0; i < N_ROWS; i++) {
        if (table[i].is_required && (table[i].commands & (int)options->command) && !has_bit(options, i)) {
            return cox_fail(COX_INVALID, "%s %s is missing", table[i].name, table[i].value);
        }
    }
    return COX_OK;
}

cox_status cox_options_parse(cox_options *options, int argc, char *const argv[])
{
    for (int i = 0; i < argc; i++) {
        const char *argument = argv[i];
        if (strncmp(argument, "--", 2) != 0) {
            return cox_fail(COX_INVALID, "\"%s\" is not an option; every value needs one before it",
                            argument);
        }
        size_t length = strcspn(argument, "=");
        const option_row *row = find_row(argument, length, options->command);
        if (!row) return unknown_option(argument, length, options->command);
        const char *value = argument[length] == '=' ? argument + length + 1 : NULL;
        if (row->kind == FLAG && value) return cox_fail(COX_INVALID, "%s takes no value", row->name);
        if (row->kind != FLAG && !value) {
            if (i + 1 >= argc) return cox_fail(COX_INVALID, "%s needs a value (%s)", row->name, row->value);
            value = argv[++i];
        }
        if (row->kind != TEXTS && row->kind != FLAG && has_bit(options, (size_t)(row - table))) {
            return cox_fail(COX_INVALID, "%s is given twice", row->name);
        }
        options->given[(row - table) / 64] |= UINT64_C(1) << (row - table) % 64;
        cox_status status = store(row, value, options);
        if (status != COX_OK) return status;
    }
    return options->has_help ? COX_OK : check_required(options);
}

void cox_options_print_help(cox_command command, FILE *file)
{
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
        if (commands[i].command != command) continue;
        fprintf(file, "Usage: coxswain %s %s [options]\n\n%s\n\nOptions:\n", commands[i].name,
                commands[i].usage, commands[i].about);
    }
    for (size_t i = 0; i < N_ROWS; i++) {
        if (!(table[i].commands & (int)command)) continue;
        char left[80];
        snprintf(left, sizeof left, "%s%s%s", table[i].name, table[i].value ? " " : "",
                 table[i].value ? table[i].value : "");
        if (strlen(left) > 24) {
            fprintf(file, "  %s\n  %-26s%s\n", left, "", table[i].help);
        } else {
            fprintf(file, "  %-26s%s\n", left, table[i].help);
        }
    }
    fprintf(file, "\nExit codes: 0 done; 2 wrong options; 3 not found; 4 malformed file; 5 not supported;\n"
                  "6 not enough memory; 7 too long; 8 in use by another run; 9 input or output failed;\n"
                  "10 another rank failed; 11 internal; 75 stopped, the same command goes on.\n");
}
