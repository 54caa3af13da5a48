/* Execution: what an instance does with the requests that it is handed at one time. */
#ifndef TRITONCAPI_TEST_EXECUTE_H
#define TRITONCAPI_TEST_EXECUTE_H

#include "instance.h"
#include "triton_api.h"

/* With an error the requests stay Triton's; otherwise each has been answered and released, planted faults aside. */
TRITONSERVER_Error* execute(instance* owner, TRITONBACKEND_Request** requests, uint32_t count);

#endif
