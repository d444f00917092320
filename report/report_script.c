/* The page's one script: a button in each heading that sorts a table, a box that filters its rows. All it
 * shows it makes itself, so that the page is whole without it. It has neither < nor &, for readers of XML. */
#include <sha2.h>
#include <string.h>

#include "report/report.h"

/* clang-format off */
const char cox_report_script[] = "\n"
    "(function () {\n"
    "'use strict';\n"
    "var LEAST_ROWS = 4;\n"
    "function text(cell) { return cell ? cell.textContent.trim() : ''; }\n"
    "/* the first number of a text, whose minus may be as wide as a plus; NaN: none */\n"
    "function number(s) {\n"
    "  var found = s.replace(/\\u2212/g, '-').match(/[-+]?[0-9]*\\.?[0-9]+(?:e[-+]?[0-9]+)?/);\n"
    "  return found ? parseFloat(found[0]) : NaN;\n"
    "}\n"
    "function compare(x, y, isNumber) {\n"
    "  if (!isNumber) return x.localeCompare(y, 'en', {numeric: true});\n"
    "  var a = number(x), b = number(y);\n"
    "  if (isNaN(a) || isNaN(b)) return isNaN(a) - isNaN(b);\n"
    "  return a - b;\n"
    "}\n"
    "/* rows that belong together: a plan and its controls; the first is what is sorted by */\n"
    "function groupsOf(table) {\n"
    "  var groups = [], isGrouped = table.classList.contains('controls');\n"
    "  Array.from(table.tBodies[0].rows).forEach(function (row) {\n"
    "    var isNew = !isGrouped || row.classList.contains('head') || groups.length === 0;\n"
    "    if (isNew) groups.push([row]); else groups[groups.length - 1].push(row);\n"
    "  });\n"
    "  return groups;\n"
    "}\n"
    "function sort(table, groups, column, isDown) {\n"
    "  var heads = Array.from(table.tHead.rows[0].cells), isNumber = heads[column].classList.contains('n');\n"
    "  var sorted = groups.map(function (group, i) { return {group: group, at: i}; });\n"
    "  sorted.sort(function (x, y) {\n"
    "    var order = compare(text(x.group[0].cells[column]), text(y.group[0].cells[column]), isNumber);\n"
    "    return (isDown ? -order : order) || x.at - y.at;\n"
    "  });\n"
    "  sorted.forEach(function (one) { one.group.forEach(function (row) { table.tBodies[0].appendChild(row); }); });\n"
    "  heads.forEach(function (head) { head.removeAttribute('aria-sort'); });\n"
    "  heads[column].setAttribute('aria-sort', isDown ? 'descending' : 'ascending');\n"
    "}\n"
    "function filter(groups, words, count) {\n"
    "  var wanted = words.toLowerCase().split(/\\s+/), shown = 0;\n"
    "  groups.forEach(function (group) {\n"
    "    var all = group.map(text).join(' ').toLowerCase();\n"
    "    var isShown = wanted.every(function (word) { return all.includes(word); });\n"
    "    group.forEach(function (row) { row.hidden = !isShown; });\n"
    "    if (isShown) shown++;\n"
    "  });\n"
    "  count.textContent = shown + ' of ' + groups.length;\n"
    "}\n"
    "function prepare(table) {\n"
    "  var groups = table.tHead ? groupsOf(table) : [];\n"
    "  if (!(groups.length >= LEAST_ROWS)) return;\n"
    "  var tools = document.createElement('div'), box = document.createElement('input');\n"
    "  var count = document.createElement('span'), choice = document.createElement('select');\n"
    "  var around = table.closest('.scroll') || table;\n"
    "  tools.className = 'tools';\n"
    "  box.type = 'search';\n"
    "  box.placeholder = 'filter rows';\n"
    "  box.setAttribute('aria-label', 'filter rows');\n"
    "  choice.setAttribute('aria-label', 'sort by');\n"
    "  choice.appendChild(new Option('sort by', ''));\n"
    "  box.addEventListener('input', function () { filter(groups, box.value, count); });\n"
    "  Array.from(table.tHead.rows[0].cells).forEach(function (head, column) {\n"
    "    var name = text(head), button = document.createElement('button');\n"
    "    if (!name) return;\n"
    "    button.type = 'button';\n"
    "    button.textContent = name;\n"
    "    head.textContent = '';\n"
    "    head.appendChild(button);\n"
    "    button.addEventListener('click', function () {\n"
    "      sort(table, groups, column, head.getAttribute('aria-sort') === 'ascending');\n"
    "    });\n"
    "    choice.appendChild(new Option(name + ' \\u2191', column + ' up'));\n"
    "    choice.appendChild(new Option(name + ' \\u2193', column + ' down'));\n"
    "  });\n"
    "  choice.addEventListener('change', function () {\n"
    "    var parts = choice.value.split(' ');\n"
    "    if (parts[0]) sort(table, groups, Number(parts[0]), parts[1] === 'down');\n"
    "  });\n"
    "  [box, choice, count].forEach(function (one) { tools.appendChild(one); });\n"
    "  around.parentNode.insertBefore(tools, around);\n"
    "}\n"
    "Array.from(document.querySelectorAll('table')).forEach(prepare);\n"
    "}());\n";
/* clang-format on */

void cox_report_script_hash(char out[45])
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    uint8_t digest[SHA256_DIGEST_LENGTH + 1] = {0}; /* 33 bytes, the last for the padding */
    SHA2_CTX context;
    SHA256Init(&context);
    SHA256Update(&context, (const uint8_t *)cox_report_script, strlen(cox_report_script));
    SHA256Final(digest, &context);
    for (size_t i = 0; i < 11; i++) {
        const uint8_t *b = &digest[3 * i];
        uint32_t bits = (uint32_t)b[0] << 16 | (uint32_t)b[1] << 8 | b[2];
        for (size_t k = 0; k < 4; k++) out[4 * i + k] = digits[bits >> (18 - 6 * k) & 63];
    }
    memcpy(out + 43, "=", 2);
}
