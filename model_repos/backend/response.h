/* Responses: making, describing and sending them, with the statistics of single responses of decoupled models. */
#ifndef TRITONCAPI_TEST_RESPONSE_H
#define TRITONCAPI_TEST_RESPONSE_H

#include "job.h"

TRITONSERVER_Error* response_new(const job* work, TRITONBACKEND_Response** made);

/* Send a response, which is gone afterwards, with the parameters that say how it came about. `error` stays with the
 * caller; NULL is success.
 */
void response_send(const job* work, TRITONBACKEND_Response* response, uint32_t flags, TRITONSERVER_Error* error);
void response_send_final_flag(const job* work);

/* When the work on a decoupled response began, and the work on its outputs (0: it had none). */
void response_report(const job* work, uint64_t start_ns, uint64_t output_start_ns, TRITONSERVER_Error* error);

#endif
