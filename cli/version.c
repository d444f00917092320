/* coxswain --version: what was built, and what this machine can do. */
#include <stdio.h>
#include <stdlib.h>

#include <jansson.h>

#include "cli/build_info.h"
#include "cli/commands.h"
#include "kernels/kernels.h"

cox_status cox_command_version(bool is_json)
{
    const cox_kernels *kernels = NULL;
    cox_status status = cox_kernels_select(&kernels, "auto");
    if (status != COX_OK) return status;
    if (!is_json) {
        printf("coxswain %s, commit %s\nbuild    %s, %s\ncpu      %s\nkernels  %s\n", COX_VERSION, COX_COMMIT,
               COX_BUILD_TYPE, COX_COMPILER, cox_cpu_features(), cox_kernels_name(kernels));
        return COX_OK;
    }
    json_t *json = json_pack("{s:s, s:s, s:s, s:s, s:s, s:s}", "version", COX_VERSION, "commit", COX_COMMIT,
                             "build", COX_BUILD_TYPE, "compiler", COX_COMPILER, "cpu", cox_cpu_features(),
                             "kernels", cox_kernels_name(kernels));
    char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;
    json_decref(json);
    if (!text) return cox_no_memory("the version");
    puts(text);
    free(text);
    return COX_OK;
}
