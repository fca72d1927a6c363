"""The programs people run llama.cpp in: what each sets by default, what it can be told, and how.

| module     | one responsibility                                                |
|------------|-------------------------------------------------------------------|
| `table`    | `Engine`: defaults, what it can be told, who splits the layers    |
| `settings` | an engine's defaults under a person's options; what it makes of any `Settings` |
| `server`   | the llama-server command line, and back from one                  |
| `ollama`   | Ollama's own choices; Modelfile and server environment            |
| `old_layout` | the layers that Ollama before 0.30 put on each card         |
| `binding`  | keyword arguments of `llama_cpp.Llama`                            |
| `studio`   | `lms load`                                                        |
| `clients`  | the same context in the clients that overrule it                  |
| `lists`    | lists of models as people have them: commands, YAML, presets      |
| `tenants`  | such a list → `Tenant`s, their headers read                        |
| `choose`   | a plan for what an engine will really do                          |
| `told`     | `Plan` → text, whichever engine                                   |
| `beside`   | what loaded models leave for the next                             |
| `shared`   | several models in an engine that places each by itself            |
| `several`  | `SharedPlan` → what to run, whichever engine                      |
| `several_ollama` | one Ollama server for several models                        |
| `presets`  | the sections of the router's presets                              |
| `ollama_sched` | when Ollama's scheduler evicts, and whom                      |
| `residents` | what an engine keeps loaded, request by request                  |
| `installed` | this machine's engines, their builds and eras                    |
| `doctor`   | this machine: its cards, memory and engines, and what to do next  |
"""
