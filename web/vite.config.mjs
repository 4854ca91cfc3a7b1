// Names without hashes: the files are checked in and embedded in the program, which answers with an ETag.
import { defineConfig } from "vite";

export default defineConfig({
  base: "./",
  build: {
    target: "es2022",
    modulePreload: false,
    assetsInlineLimit: 0,
    cssCodeSplit: false,
    rollupOptions: {
      input: { app: "index.html", sandbox: "src/chat/sandbox.ts" },
      output: { entryFileNames: "ui/[name].js", chunkFileNames: "ui/[name].js", assetFileNames: "ui/app[extname]" },
    },
  },
});
