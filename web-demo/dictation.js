/** Speaking instead of typing, where the browser can: some browsers send the sound to their maker for it. */

/**
 * @param {HTMLButtonElement} button  hidden until there is something to press it for
 * @param {HTMLTextAreaElement} field
 * @param {() => void} done  all was said
 * @param {(message: string) => void} failed
 */
export function offerDictation(button, field, done, failed) {
  const Recognition = /** @type {any} */ (window).SpeechRecognition ?? /** @type {any} */ (window).webkitSpeechRecognition;
  if (!Recognition) return;
  button.hidden = false;
  button.title = "Uses your browser's speech recognition, which may send what you say to the browser's maker";
  let recognition = /** @type {any} */ (null);
  button.onclick = () => {
    if (recognition) return recognition.stop();
    recognition = new Recognition();
    recognition.lang = navigator.language;
    recognition.interimResults = true;
    recognition.onresult = (/** @type {any} */ { results }) => {
      field.value = [...results].map((one) => one[0].transcript).join(" ");
      if ([...results].every((one) => one.isFinal)) done();
    };
    recognition.onerror = (/** @type {any} */ { error }) => failed(`Speech recognition failed: ${error}.`);
    recognition.onend = () => {
      recognition = null;
      button.setAttribute("aria-pressed", "false");
    };
    recognition.start();
    button.setAttribute("aria-pressed", "true");
  };
}
