/* Cores that this process may use. */
#ifndef TRITONCAPI_CORES_H
#define TRITONCAPI_CORES_H

int tc_cores(void); /* as of the first call */

#endif
