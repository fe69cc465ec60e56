// How often each method of resources of openai-node is called: { "files.create": 1, … }, counted from now on.
export function counted(resources) {
  const times = {};
  for (const [noun, resource] of Object.entries(resources))
    for (const verb of Object.getOwnPropertyNames(Object.getPrototypeOf(resource)))
      if (verb !== "constructor") {
        const method = resource[verb];
        times[`${noun}.${verb}`] = 0;
        resource[verb] = (...given) => (times[`${noun}.${verb}`]++, method.apply(resource, given));
      }
  return times;
}
