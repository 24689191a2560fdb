// The page of all API keys.
import "./who.js";
import { showKeys } from "./keys.js";

showKeys(null);
