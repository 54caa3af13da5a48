/* Functions of ours as builtins of Python's: a call through ctypes takes longer, most of all while its code is in no cache,
 * and between two requests it never is.
 *
 * Python's own functions are handed in, of its stable ABI: nothing here is compiled against one Python, or linked to it. */
#include <stddef.h>

typedef struct _object PyObject;

static struct tc_python {
  void *(*PyEval_SaveThread)(void);
  void (*PyEval_RestoreThread)(void *);
  void *(*PyLong_AsVoidPtr)(PyObject *);
  PyObject *(*PyLong_FromVoidPtr)(void *);
  void (*Py_IncRef)(PyObject *);
  PyObject *(*PyErr_Occurred)(void);
  void (*PyErr_SetString)(PyObject *, const char *);
  PyObject *None, *TypeError;
} python;

void tc_python_bind(const struct tc_python *functions) { python = *functions; }

static PyObject *address_or_none(void *address) {
  if (address) return python.PyLong_FromVoidPtr(address);
  python.Py_IncRef(python.None);
  return python.None;
}

/* What METH_O calls: f(address) -> address or None, without the interpreter lock. `self` is where f is. */
PyObject *tc_call_unlocked(PyObject *self, PyObject *argument) {
  void *(*function)(void *) = (void *(*)(void *))python.PyLong_AsVoidPtr(self);
  void *address = python.PyLong_AsVoidPtr(argument);
  if (!address && python.PyErr_Occurred()) return NULL;
  void *state = python.PyEval_SaveThread();
  void *result = function(address);
  python.PyEval_RestoreThread(state);
  return address_or_none(result);
}

/* What METH_FASTCALL calls: f(address, address, address), each of which may be None, -> address or None; it keeps the
 * lock. */
PyObject *tc_call_locked(PyObject *self, PyObject *const *arguments, ptrdiff_t count) {
  void *addresses[3] = {NULL};
  if (count != 3) {
    python.PyErr_SetString(python.TypeError, "it takes 3 addresses");
    return NULL;
  }
  for (int i = 0; i < 3; i++)
    if (arguments[i] != python.None && !(addresses[i] = python.PyLong_AsVoidPtr(arguments[i])) &&
        python.PyErr_Occurred())
      return NULL;
  void *(*function)(void *, void *, void *) = (void *(*)(void *, void *, void *))python.PyLong_AsVoidPtr(self);
  return address_or_none(function(addresses[0], addresses[1], addresses[2]));
}
