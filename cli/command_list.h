/*
 * The commands, a row each: X(NAME, name, where it runs, does it end early when it is asked to
 * (cluster/drain.h), which groups of options it takes, usage, about). The row makes COX_COMMAND_NAME and the
 * prototype of cox_command_name (cli/commands.h). A new command is a row here and a file; options of its own
 * are rows of cli/option_table.c.
 */
#ifndef COX_CLI_COMMAND_LIST_H
#define COX_CLI_COMMAND_LIST_H

/* clang-format off */
#define COX_COMMAND_LIST(X) \
    X(GENERATE, generate, COX_RUNS_ON_RANKS, true, COX_TAKES_ANSWERS, \
      "--model DIR --prompt TEXT [--prompt TEXT ...]", \
      "Answers prompts; the text is streamed to standard output (of several prompts each after " \
      "a line \"> PROMPT\"), all else goes to standard error.") \
    X(BATCH, batch, COX_RUNS_ON_RANKS, true, COX_TAKES_ANSWERS, \
      "--model DIR --input FILE --output FILE", \
      "Answers a file of OpenAI batch lines; each answer is written as soon as it is complete.") \
    X(LOGITS, logits, COX_RUNS_ON_RANKS, false, COX_TAKES_MODEL | COX_TAKES_RUNS, \
      "--model DIR --tokens \"1,2,3\" --output FILE.safetensors", \
      "Writes the f32 logits [n_tokens, vocab_size] of every position of a list of token ids.") \
    X(TOKENIZE, tokenize, COX_RUNS_HERE, false, COX_TAKES_MODEL | COX_TAKES_CHATS | COX_TAKES_PROMPTS, \
      "--model DIR [--decode] [--chat [--conversations FILE]] < TEXT", \
      "Turns standard input into token ids (one JSON list), or ids back into text.") \
    X(INSPECT, inspect, COX_RUNS_HERE, false, COX_TAKES_MODEL, \
      "--model DIR [--ranks N [--nodes N]]", \
      "Describes a model and foretells what each rank would hold, loading nothing.") \
    X(SWEEP, sweep, COX_RUNS_ON_RANKS, true, COX_TAKES_STUDY | COX_TAKES_CLASSES, \
      "--model DIR --grid FILE --a FILE --b FILE --rules FILE --output DIR", \
      "Runs a grid of steering plans over two sets of prompts: log-odds of the first token and " \
      "KL divergence of every cell, then answers of the best. A sweep that was stopped goes on " \
      "with the same command.") \
    X(DIRECTION, direction, COX_RUNS_ON_RANKS, false, COX_TAKES_STUDY | COX_TAKES_CLASSES, \
      "--model DIR --a FILE --b FILE --output FILE.safetensors", \
      "Writes what sets two sets of prompts apart inside the model: the difference of the mean " \
      "rows at a site, of every expert too.") \
    X(ROUTES, routes, COX_RUNS_ON_RANKS, false, COX_TAKES_STUDY | COX_TAKES_CLASSES | COX_TAKES_MEASURES, \
      "--model DIR --a FILE --b FILE", \
      "Which experts the tokens of one set of prompts go to more often than those of another.") \
    X(CAPTURE, capture, COX_RUNS_ON_RANKS, false, COX_TAKES_STUDY, \
      "--model DIR --input FILE [--input FILE ...] --output FOLDER", \
      "Writes what flows through the model at chosen sites of prompts: rows in shards, or " \
      "their statistics.") \
    X(DECOMPOSE, decompose, COX_RUNS_ON_RANKS, false, COX_TAKES_STUDY | COX_TAKES_CLASSES | COX_TAKES_MEASURES, \
      "--model DIR --vector FILE[#NAME] --a FILE --b FILE", \
      "How much of a direction of the residual stream attention and each expert write, layer " \
      "by layer.") \
    X(EVALUATE, evaluate, COX_RUNS_HERE_WITHOUT_MODEL, false, \
      COX_TAKES_RUNS | COX_TAKES_SETS | COX_TAKES_MEASURES | COX_TAKES_CHATS | COX_TAKES_PROMPTS, \
      "--rules FILE --results FILE [--baseline FILE] | --model DIR --prompts FILE", \
      "Judges the answers of a batch, beside another's, and what steering does to a model's " \
      "logits.") \
    X(REPORT, report, COX_RUNS_HERE, false, 0, \
      "--sweep DIR --output FILE.html [--routes FILE] [--decompose FILE]", \
      "Shows what a sweep found as one HTML page that needs no network: maps, curves, " \
      "controls, answers before and after, all parameters.") \
    X(BENCH, bench, COX_RUNS_HERE_FOR_CHATS, false, COX_TAKES_MODEL | COX_TAKES_RUNS | COX_TAKES_CHATS, \
      "--model DIR --steer-mix | --chat | --sweep --grid FILE --a FILE --b FILE --rules FILE", \
      "Measures tokens per second of one batch without steering, and with a plan of its own " \
      "for every request; or chats rendered per second; or the cells of a sweep, beside some " \
      "of them one by one.") \
    X(VECTOR, vector, COX_RUNS_HERE, false, COX_TAKES_FILES, \
      "show|import|export|combine|random FILE[#NAME] ...", \
      "Shows, imports, exports, combines or draws steering vectors, without a model's weights:\n" \
      "  show FILE [--json]\n" \
      "  import FILE --output OUT.safetensors [FACTS] [--model DIR]: FILE.gguf (a control " \
      "vector of llama.cpp, repeng or\n" \
      "    GLP) or raw little-endian f32\n" \
      "  export FILE --output OUT.gguf [--model-hint NAME]\n" \
      "  combine [WEIGHT*]FILE[#NAME] ... --output OUT.safetensors [--name NAME] [--mean] " \
      "[--without FILE[#NAME]] ...: the\n" \
      "    weighted sum (weights default to 1), less its projection on the span of the vectors " \
      "--without. Inputs that name\n" \
      "    different models or tokenizers are refused; other facts that differ are left out\n" \
      "  random --like FILE[#NAME] --seed N --output OUT.safetensors [--name NAME]: a " \
      "direction drawn uniformly, of the same\n" \
      "    norm and for the same place as --like: a control\n" \
      "FILE.gguf can be read by every subcommand, and stands in plans as it is. No subcommand " \
      "writes over a file that it reads.") \
    X(PLAN, plan, COX_RUNS_HERE, false, COX_TAKES_FILES, \
      "check --model DIR PLAN.json", \
      "Says in words what a steering plan does on this model, and on which ranks; ends with an " \
      "error that names the intervention when it is not valid.")
/* clang-format on */

typedef enum cox_command {
    COX_COMMAND_NONE,
#define X(NAME, name, place, drains, takes, usage, about) COX_COMMAND_##NAME,
    COX_COMMAND_LIST(X)
#undef X
} cox_command;

typedef enum cox_place {
    COX_RUNS_ON_RANKS,
    COX_RUNS_HERE, /* in one process, without MPI */
    COX_RUNS_HERE_WITHOUT_MODEL,
    COX_RUNS_HERE_FOR_CHATS
} cox_place;

/* Groups of options; the bits below are the commands', 1 << COX_COMMAND_NAME. */
enum {
    COX_TAKES_MODEL = 1 << 20,    /* a model, always */
    COX_TAKES_RUNS = 1 << 21,     /* what a run is opened with */
    COX_TAKES_TEXT = 1 << 22,     /* sampling */
    COX_TAKES_CHATS = 1 << 23,    /* chat templates */
    COX_TAKES_PROMPTS = 1 << 24,  /* what becomes of a user's prompt */
    COX_TAKES_SETS = 1 << 25,     /* files of prompts */
    COX_TAKES_CLASSES = 1 << 26,  /* two of them, that are compared */
    COX_TAKES_MEASURES = 1 << 27, /* numbers with intervals */
    COX_TAKES_FILES = 1 << 28,    /* arguments without a name before them */
    COX_TAKES_ANSWERS =
        COX_TAKES_MODEL | COX_TAKES_RUNS | COX_TAKES_TEXT | COX_TAKES_CHATS | COX_TAKES_PROMPTS,
    COX_TAKES_STUDY = COX_TAKES_MODEL | COX_TAKES_RUNS | COX_TAKES_SETS | COX_TAKES_CHATS | COX_TAKES_PROMPTS
};

#endif
