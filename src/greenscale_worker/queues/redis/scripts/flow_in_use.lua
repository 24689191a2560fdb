-- For scripts that look at the flow only while it is in use: see flow.lua.
wants_flow = control.flow
