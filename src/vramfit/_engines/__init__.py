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
| `installed` | this machine's engines, their builds and eras                    |
| `doctor`   | this machine: its cards, memory and engines, and what to do next  |
"""
