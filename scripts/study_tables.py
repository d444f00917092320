"""What scripts/study says of its results: intervals and correlations, and its tables in Markdown. Pure functions of
counts, and of studies as they are when they have been judged (`rows`, `kinds`, `attention`, ... of class Study).
"""
import math
import statistics

FAMILIES = {"residual_ablate": "residual direction ablated everywhere",
            "attention_ablate": "residual direction ablated in attention's output alone, all layers",
            "moe_ablate": "residual direction ablated in the experts' sum alone, all layers",
            "residual_add": "residual direction added at its layer",
            "expert_routing": "one expert, of the largest routing differences",
            "expert_free": "one expert, free choice",
            "layer_together": "all experts of a layer"}
CONTROLS = {"random_direction": "random direction", "random_expert": "another expert's direction"}


# --- Statistics ---


def wilson(yes, n, z=1.959963984540054):
    """Wilson's 95% interval."""
    if not n:
        return 0.0, 1.0
    p, d = yes / n, 1 + z * z / n
    mid, half = (p + z * z / (2 * n)) / d, z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / d
    return max(0.0, mid - half), min(1.0, mid + half)


def newcombe(yes, n, yes0, n0):
    """p - p0 with Newcombe's 95% interval for two proportions (his method 10)."""
    p, p0 = yes / n, yes0 / n0
    (low, high), (low0, high0) = wilson(yes, n), wilson(yes0, n0)
    return p - p0, p - p0 - math.hypot(p - low, high0 - p0), p - p0 + math.hypot(high - p, p0 - low0)


# Student's t of 1, 2, ... degrees of freedom, 97.5%
T = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131]


def student(values):
    """(mean, half of Student's 95% interval); of one value the half is 0."""
    k = len(values)
    half = T[min(k, len(T) + 1) - 2] * statistics.stdev(values) / math.sqrt(k) if k > 1 else 0.0
    return sum(values) / k, half


def over_draws(yes, n, yes0, n0):
    """(mean effect of draws that answered the same n prompts, its 95% interval): Newcombe's for the mean share, as of one
    draw, widened by Student's interval for the mean of the draws."""
    mean_yes, half = student(yes)
    mean, low, high = newcombe(mean_yes, n, yes0, n0)
    draws = half / n
    return mean, max(-1.0, mean - math.hypot(mean - low, draws)), min(1.0, mean + math.hypot(high - mean, draws))


LEAST_PAIRS = 10  # a rank correlation over fewer says nothing


def rank_correlation(pairs):
    """Spearman's, ties at their mean rank, with the 95% interval of Bonett and Wright (Psychometrika 65, 2000); nothing of
    fewer than LEAST_PAIRS pairs, or if all of one side are equal."""
    def ranks(v):
        return [sum(w < a for w in v) + (sum(w == a for w in v) - 1) / 2 for a in v]
    if len(pairs) < LEAST_PAIRS:
        return {}
    x, y = (ranks(v) for v in zip(*pairs))
    mx, my = sum(x) / len(x), sum(y) / len(y)
    spread = math.sqrt(sum((a - mx) ** 2 for a in x) * sum((b - my) ** 2 for b in y))
    if not spread:
        return {}
    r = sum((a - mx) * (b - my) for a, b in zip(x, y)) / spread
    r, half = max(-1.0, min(1.0, r)), 1.959963984540054 * math.sqrt((1 + r * r / 2) / (len(x) - 3))
    low, high = (math.tanh(math.atanh(r) + s * half) if abs(r) < 1 else r for s in (-1, 1))
    return {"rank_correlation": r, "low": low, "high": high}


# --- Tables ---


def well_shown(label):
    """The label of answers that show the behaviour in good form."""
    return "well_formed_refusal" if label == "refused" else f"well_formed_{label}"


def percent(x):
    return "-" if x is None else f"{100 * x:.0f}%"


def effect(r, s):
    return "-" if r is None else f"{r[s + '_effect']:+.0f} [{r[s + '_effect_low']:+.0f}, {r[s + '_effect_high']:+.0f}]"


def where(r):
    words = [f"layer {r['layer']}" + (f" expert {r['expert']}" if isinstance(r["expert"], int) else "")]
    words += [r["weighting"]] if r["weighting"] else []
    scope = {"\"all\"": "all tokens", "{\"last\": 1}": "last token of the prompt"}.get(r["positions"], r["positions"])
    words += [f"direction at {r['source']}", scope, f"strength {r['strength']:g}"]
    return ", ".join(words) + ("" if r["calm"] else " (not calm)")


def control_cell(study, r, control, s):
    """Mean effect over the draws with its interval, and the largest draw."""
    same = [k for k in study.rows if (k["family"], k["aim"], k["control"]) == (r["family"], r["aim"], control)]
    if not same:
        return "-"
    clean, shown = study.rows[0], f"{s}_{study.label}"
    mean, low, high = over_draws([k[shown] for k in same], same[0][s + "_n"], clean[shown], clean[s + "_n"])
    largest = max((k[s + "_effect"] for k in same), key=abs)
    return f"{100 * mean:+.0f} [{100 * low:+.0f}, {100 * high:+.0f}], {largest:+.0f}"


def strongest(study, aim, families):
    """Of the judged plans of these families the one with the largest effect in the aim's direction, or None."""
    s, sign = ("a", -1) if aim == "weaken" else ("b", 1)
    rows = [r for r in study.rows if r["aim"] == aim and not r["control"] and r["family"] in families]
    return max(rows, key=lambda r: sign * r[s + "_effect"], default=None)


def summary(studies):
    labels = {k.label for k in studies}
    out = [f"| model, lists | A {labels.pop() if len(labels) == 1 else 'shows the behaviour'}: no plan, ablated | A well formed, answered | B well formed: no plan, ablated | "
           "one expert by routing | one expert, free | all experts of a layer | attention alone | experts alone | strongest induction on B |",
           "|---|---|---|---|---|---|---|---|---|---|"]
    for k in studies:
        clean, ablated = k.rows[0], strongest(k, "weaken", ["residual_ablate"])
        cells = [f"{k.model.name}, {k.lists.name}", f"{clean['a_' + k.label]}, {ablated['a_' + k.label]} of {clean['a_n']}",
                 f"{percent(ablated['a_well_formed'])}, {percent(ablated['a_answered'])}",
                 f"{percent(clean['b_well_formed'])}, {percent(ablated['b_well_formed'])}"]
        for family in "expert_routing", "expert_free", "layer_together", "attention_ablate", "moe_ablate":
            cells.append(effect(strongest(k, "weaken", [family]), "a"))
        cells.append(effect(strongest(k, "strengthen", FAMILIES), "b"))
        out.append("| " + " | ".join(cells) + " |")
    return out + [""]


def headed(name, label):
    """A column's name for people; the label as its owner writes it."""
    return label.join(part.replace("_", " ") for part in name.split(label))


def aim_table(study, aim):
    label = study.label
    s, title = ("a", f"Weaken `{label}`: A, which shows it without a plan") if aim == "weaken" else \
        ("b", f"Strengthen `{label}`: B, which does not show it without a plan")
    good = ("well_formed", "answered") if s == "a" else (well_shown(label),)
    out = [f"**{title}**", "", f"| steered | chosen place | {s.upper()} {label} | effect in points [95%] | {s.upper()} "
           f"{', '.join(headed(name, label) for name in good)} | " + (f"B {label}, well formed | " if s == "a" else "B fell apart | ") +
           "random direction: mean, largest draw | another expert: mean, largest draw |", "|---|---|---|---|---|---|---|---|"]
    for r in study.rows:
        if r["aim"] != aim or r["control"]:
            continue
        beside = f"{r['b_' + label]} of {r['b_n']}, {percent(r['b_well_formed'])}" if s == "a" else percent(r["b_fell_apart"])
        cells = [FAMILIES[r["family"]], where(r), f"{r[f'{s}_{label}']} of {r[s + '_n']}", effect(r, s),
                 ", ".join(percent(r[f"{s}_{label}"]) for label in good), beside, *(control_cell(study, r, c, s) for c in CONTROLS)]
        out.append("| " + " | ".join(cells) + " |")
    return out + [""]


def kind_table(study):
    """The behaviour, and what is well formed, by the field --by, where the lists have it."""
    label, kinds = study.label, list(study.kinds["clean"])
    if len(kinds) <= 2:
        return []
    heads = [k.split("/", 1)[1].replace("|", "\\|") for k in kinds]
    out = [f"**By kind: {label} / well formed**", "", "| plan | " + " | ".join(heads) + " |",
           "|---|" + "---|" * len(kinds)]
    for run, of in study.kinds.items():
        cells = [f"{of[k][label][0]} of {of[k][label][1]} / " +
                 (percent(of[k]["well_formed"][0] / of[k]["well_formed"][1]) if of[k]["well_formed"] else "-") for k in kinds]
        out.append("| " + " | ".join([run, *cells]) + " |")
    return out + [""]


def table(study):
    """The lines of one study in Markdown."""
    clean, a, label, r = study.rows[0], study.attention, study.label, study.correlation
    related = (f"{r['rank_correlation']:+.2f} [{r['low']:+.2f}, {r['high']:+.2f}], {r['experts']} experts"
               if r["rank_correlation"] is not None else f"none, over {r['experts']} experts")
    out = [f"### {study.model.name}, lists `{study.lists.name}`", "",
           f"{len(study.cells)} cells on validation lists. Held-out, no plan: A {label} {clean['a_' + label]} of {clean['a_n']}, "
           f"B {label} {clean['b_' + label]} of {clean['b_n']}, B well formed {percent(clean['b_well_formed'])}. Largest "
           "routing differences (top-1, last 5 tokens): " + ", ".join(
               f"layer {c['layer']} expert {c['expert']} {100 * c['difference']:+.0f} points" for c in study.candidates) +
           f". Rank correlation of an expert's routing difference (size) with the largest fall of A's log-odds that steering it "
           f"reaches: {related}.", ""]
    out += aim_table(study, "weaken") + aim_table(study, "strengthen") + kind_table(study)
    words = [f"{n} {100 * a['share'][k]:.0f}%; ablated in one layer alone it changes A's mean log-odds by at most "
             f"{a[k]['']:+.2f} [{a[k]['_low']:+.2f}, {a[k]['_high']:+.2f}] (layer {a[k]['layer']})"
             for k, n in (("attention", "attention writes"), ("block", "experts write"))]
    return out + [f"Of the ablated direction (after layer {a['layer']}, token {a['source']}) {words[0]}; {words[1]}.", ""]
