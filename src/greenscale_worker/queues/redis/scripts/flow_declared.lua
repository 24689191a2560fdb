-- For the claim, which declares the flow: see flow.lua.
wants_flow = control.flow or ARGV[13] ~= '' or ARGV[14] ~= '' or ARGV[15] ~= '' or ARGV[16] == '1'
