-- For wrk: posts the bodies of a file, one a line, in turn. `wrk -s post.lua URL -- BODIES`

local requests = {}
local turn = 0

wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"

function init(args)
  -- Formatted once, so that the generator takes as little as can be of the cores that it shares with the server.
  for body in io.lines(args[1]) do
    requests[#requests + 1] = wrk.format(nil, nil, nil, body)
  end
end

function request()
  turn = turn % #requests + 1
  return requests[turn]
end

-- One line that a program can read; wrk's own text rounds. All times are in microseconds.
function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    'result {"requests": %d, "duration": %d, "p50": %d, "p90": %d, "p99": %d, "max": %d, '
      .. '"connect": %d, "read": %d, "write": %d, "timeout": %d, "status": %d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(90), latency:percentile(99),
    latency.max, errors.connect, errors.read, errors.write, errors.timeout, errors.status
  ))
end
