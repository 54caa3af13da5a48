/* Turns: threads with an answer go back to Python one after the other. */
#ifndef TRITONCAPI_TURN_H
#define TRITONCAPI_TURN_H

void tc_turn_begin(void); /* before the return to Python */
void tc_turn_end(void);   /* at the next call from it */

#endif
