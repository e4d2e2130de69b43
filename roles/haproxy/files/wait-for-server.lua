-- tcp-request content lua.wait_for_server <backend> <most> <milliseconds>
-- Hold a new connection until between one and so many servers of the backend are up, at most so long: it waits for the next primary instead of being refused.
core.register_action("wait_for_server", {"tcp-req"}, function(txn, backend, most, milliseconds)
    local now = core.now()
    local last = now.sec + now.usec / 1e6 + tonumber(milliseconds) / 1000
    repeat
        local up = txn.f:nbsrv(backend)
        if up >= 1 and up <= tonumber(most) then
            return
        end
        core.msleep(10)
        now = core.now()
    until now.sec + now.usec / 1e6 >= last
end, 3)
